"""``mettle info``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer

from mettle_cache.cli.options import Debug, Json, StoreArgument
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.report.units import format_bytes

EPILOG = """Examples:

\b
mettle info cache/ave-swinv2_l-htsat.zarr
mettle info cache/ave-swinv2_l-htsat.zarr --json
"""
STATES = {
    "finished": "",
    "other": "",
    "unfinished": ", UNFINISHED: the training that wants it goes on with it",
    "outdated": ", of other tokens than the store's: it is never read, and can be removed",
    "damaged": ", DAMAGED: the training that wants it makes it anew",
}
LISTED = 3
SHOWN = ("array", "layers", "tokens", "width", "cell")


def register(app: typer.Typer) -> None:
    app.command("info", epilog=EPILOG)(info)


def info(store: StoreArgument, json: Json = False, debug: Debug = False) -> None:
    """Show what is in a store, finished or not, and what made it."""
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.store import describe_store

    require_store(store)
    facts = describe_store(store)
    stages, rows, failed = facts["stages"], facts["rows"], facts["failed"]
    assert isinstance(stages, list)
    assert isinstance(rows, dict)
    assert isinstance(failed, dict)
    assert isinstance(facts["nbytes"], int)
    assert isinstance(facts["bytes_per_clip"], int)
    assert isinstance(facts["provenance"], dict)
    assert isinstance(facts["companions"], list)
    static = facts["static_bytes"]
    assert isinstance(static, int)
    beside = f", and {format_bytes(static)} of static arrays" if static else ""
    lines = [
        f"store      {store}, format {facts['format']}, {'finished' if facts['finished'] else 'UNFINISHED'}",
        f"data set   {facts['dataset']}: {', '.join(f'{split} {number}' for split, number in rows.items())} rows",
        f"clips      {facts['committed']} of {facts['clips']} committed, {len(failed)} failed",
        f"bytes      {format_bytes(facts['nbytes'])}, {format_bytes(facts['bytes_per_clip'])} a clip, {facts['codec']}"
        f"{beside}",
        f"files      {facts['files']:,}, {facts['clips_per_shard']} clips a shard",
        f"key        {facts['key_digest']}",
        *(f"{name:<10} {value}" for name, value in facts["provenance"].items()),
        "",
        *table_lines(SHOWN, [[stage[name] for name in SHOWN] for stage in stages]),
        *precision_lines(facts["precision"]),
        *(
            f"companion  {one['name']}: {format_bytes(one['nbytes'])}{STATES[one['state']]}"
            for one in facts["companions"]
        ),
        *failed_lines(failed),
    ]
    emit(facts, lines)


def precision_lines(record: object) -> list[str]:
    """How far the tokens are from those of float32: in a line, and by layer."""
    if not isinstance(record, Mapping):
        return []
    from mettle_cache.store.precision_record import PrecisionRecord

    precision = PrecisionRecord.from_json(record)
    rows = [(name, f"{error.tokens:.2%}", f"{error.normalised:.2%}") for name, error in precision.layers.items()]
    return [f"precision  {precision.summary()}", *table_lines(("layer", "error", "normalised"), rows)]


def failed_lines(failed: Mapping[str, str]) -> Iterator[str]:
    """Clips that a store lacks: a line each, or one for all that have a reason in common."""
    clips_of: dict[str, list[str]] = {}
    for clip, reason in failed.items():
        clips_of.setdefault(reason, []).append(clip)
    for reason, clips in clips_of.items():
        more = f" and {len(clips) - LISTED} more" if len(clips) > LISTED else ""
        yield f"failed     {', '.join(clips[:LISTED])}{more}: {reason}"
