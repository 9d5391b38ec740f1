"""Events as subtitles (SubRip) and as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from mettle_cache.pipelines.predict.answer import Event

COLUMNS = ("file", "start", "end", "modality", "label", "score")


def events_srt(events: Sequence[Event]) -> str:
    """One cue an event, in the order of their starts; cues may overlap, which players show together."""
    cues = [
        f"{number}\n{_clock(event.start)} --> {_clock(event.end)}\n{_shown(event)}\n"
        for number, event in enumerate(sorted(events), 1)
    ]
    return "\n".join(cues)


def events_csv(events_of: Iterable[tuple[str, Sequence[Event]]]) -> str:
    """One row an event, with the file that it is in; seconds are whole."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file, events in events_of:
        for event in events:
            writer.writerow((file, event.start, event.end, event.modality, event.label, f"{event.score:.6f}"))
    return buffer.getvalue()


def _shown(event: Event) -> str:
    """A line of text: what begins with a number or an arrow would be taken for the next cue's."""
    heard = f" ({event.modality})" if event.modality else ""
    return f"{event.label}{heard} {100 * event.score:.0f} %".replace("-->", "->")


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},000"
