"""``mettle report RUN --out FILE``: runs to one HTML file, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mettle_cache.errors import UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.page.options import PageOptions
from mettle_cache.pipelines.page.runs import PageRun, read_run
from mettle_cache.pipelines.page.subject import Subject, tell_subject
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.run_labels import run_labels
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.tables.collecting import group_folders
from mettle_cache.pipelines.tables.table import Table, make_table
from mettle_cache.store.format.files import open_regular
from mettle_cache.store.writing.durable import make_folder, write_file

MARKER = '<meta name="generator" content="mettle report">'
_HEAD_BYTES = 2048
_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("charts.js", "classes.js", "clips.js", "page.js")


@dataclass(frozen=True)
class PageReport:
    """The page's path and size, how many runs it tells of, and what it lacks, in words."""

    path: Path
    nbytes: int
    runs: int
    lacks: list[str]

    def to_json(self) -> dict[str, object]:
        return {"page": str(self.path), "bytes": self.nbytes, "runs": self.runs, "lacks": self.lacks}


def check_out(path: Path) -> None:
    """Refuse a place where a page may not be written: a folder, or a file that is no page of ours.

    Raises
    ------
    UsageError
        It may not.
    """
    if path.is_dir():
        raise UsageError(f"--out {path}: this is a folder", hint=f"name a file in it: --out {path / 'report.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {path}: a page is an HTML file", hint=f"for example --out {path.with_suffix('.html')}")
    if os.path.lexists(path):
        try:
            with os.fdopen(open_regular(path, follow_links=True), "rb") as file:
                ours = MARKER.encode() in file.read(_HEAD_BYTES)
        except OSError:
            ours = False
        if not ours:
            raise UsageError(
                f"--out {path}: a file is there that mettle report has not written", hint="choose another name"
            )


def write_page(
    folders: Sequence[Path], options: PageOptions, progress: Progress | None = None, *, base: str | None = None
) -> PageReport:
    """Write the page of the runs in ``folders`` to ``options.out``, in the place of an earlier one.

    Runs on several data sets have a chapter each. What a run or its store lacks is said in the page.

    Raises
    ------
    UsageError
        Something else lies at ``options.out``, or a table cannot be made (as ``mettle report`` without ``--out``).
    RunError
        There is no run, or one is damaged.
    NoRoomError, StoreError
        The page cannot be written.
    """
    check_out(options.out)
    progress = progress or Silent()
    chapters, total = _chapters(folders, options, base)
    if options.root is not None and len(chapters) > 1:
        names = " and ".join(runs[0].dataset for runs, _ in chapters)
        raise UsageError(
            f"--root {options.root}: one folder cannot be {names}",
            hint="make a page for each data set, or leave it out",
        )
    subjects = [tell_subject(runs, tables, options, progress) for runs, tables in chapters]
    content = render(subjects, options).encode("utf-8")
    make_folder(options.out.absolute().parent)
    write_file(options.out, content)
    return PageReport(options.out, len(content), total, [line for subject in subjects for line in subject.lacks])


def _chapters(
    folders: Sequence[Path], options: PageOptions, base: str | None
) -> tuple[list[tuple[list[PageRun], list[Table]]], int]:
    """The runs of each data set and task, with their tables, and how many runs there are."""
    groups = group_folders(folders)
    paths = list(dict.fromkeys(path for _, members in groups for path in members))
    labels = dict(zip(paths, run_labels(paths), strict=True))
    read = {path: read_run(path, labels[path], options.split) for path in paths}
    chapters: dict[tuple[str, str], tuple[list[PageRun], list[Table]]] = {}
    for sweep, members in groups:
        of_subject: dict[tuple[str, str], list[PageRun]] = {}
        for path in members:
            of_subject.setdefault((read[path].dataset, read[path].task), []).append(read[path])
        for subject, runs in of_subject.items():
            told, tables = chapters.setdefault(subject, ([], []))
            told += [run for run in runs if run not in told]
            scored = [run.scored for run in runs if run.scored]
            if scored:
                tables.append(make_table(scored, split=options.split, sweep=sweep, base=base, groups=options.groups))
    return list(chapters.values()), len(paths)


def render(subjects: Sequence[Subject], options: PageOptions) -> str:
    """The page as text. Whatever comes from runs is escaped, in the markup as in the data."""
    environment = Environment(
        loader=FileSystemLoader(str(_ASSETS)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join((_ASSETS / name).read_text("utf-8") for name in _SCRIPTS)
    made = f"mettle-cache {version('mettle-cache')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template("page.html").render(
        marker=Markup(MARKER),
        title=", ".join(dict.fromkeys(subject.view["summary"].title for subject in subjects)),
        subjects=[subject.view for subject in subjects],
        data=script_json([subject.data for subject in subjects]),
        style=Markup((_ASSETS / "page.css").read_text("utf-8")),
        script=Markup(script),
        digest=_digest(script),
        made=made,
        split=printable(options.split),
        again=command_line("mettle report"),
    )


def script_json(value: Any) -> Markup:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _digest(script: str) -> str:
    """What the page's policy calls its only script by."""
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
