"""A table of scored runs: a row a variant, its differences from one of them, and a paper's numbers beside."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.compare.groups import Groups
from mettle_cache.pipelines.sweeps.sweep_file import Sweep, SweepRow, find_by_key, keys_of
from mettle_cache.pipelines.tables.paired import Difference, paired_difference
from mettle_cache.pipelines.tables.scored_runs import ScoredRun

_RECIPE = re.compile(r"recipe: ([\w.]+) = ")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One variant: ``scores`` by seed, those of heads whose training failed left out and counted in ``failed``.

    ``std`` is the sample standard deviation (n - 1); None below two scores, as ``mean`` is without any. ``paper`` is
    the printed number; where it is no ``target`` it is nothing to compare with. ``paper_difference`` is that of the
    printed numbers of this row and the base, where both are targets. ``difference`` is None for the base.
    """

    name: str
    scores: dict[int, float]
    failed: int
    paper: float | None = None
    target: bool = True
    paper_difference: float | None = None
    difference: Difference | None = None
    note: str = ""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one data set, split and metric.

    ``base`` is the row that the others are compared with, ``source`` where the printed numbers are from, ``setting``
    the published one that they are of, both empty where nothing is printed. ``groups`` counts the groups of samples by
    what they share. ``warnings`` are the sweep's, ``differs`` what separates these runs from the paper's protocol, with
    the rows that it is for where it is not for all, ``notes`` what has to be known besides.
    """

    title: str
    dataset: str
    split: str
    metric: str
    samples: int
    base: str
    rows: list[TableRow]
    source: str = ""
    setting: str = ""
    groups: dict[str, int]
    warnings: list[str]
    differs: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}


def make_table(
    runs: Sequence[ScoredRun],
    *,
    split: str,
    sweep: Sweep | None = None,
    base: str | None = None,
    groups: Groups | None = None,
) -> Table:
    """A row a variant: in the order of the file that the runs were made by, ``sweep``, else of appearance.

    ``base`` is the row that the others are compared with; None: the sweep's, else the first one. ``groups`` say which
    clips are not independent (:func:`~mettle_cache.pipelines.compare.groups.read_groups`).

    Raises
    ------
    UsageError
        Runs on several data sets, two of one row and seed, a metric that they lack, or no row called ``base``.
    DatasetError
        A clip that the groups lack.
    """
    dataset, keys = _subject(runs)
    metric = (find_by_key(sweep.metrics, keys) if sweep else None) or runs[0].metric
    variants = _by_variant(runs, sweep)
    chosen = _base(base, variants, sweep)
    files = {row.name: row for row in sweep.rows} if sweep else {}
    others = {} if chosen not in variants else {name: one for name, one in variants.items() if name != chosen}
    apart = {
        name: paired_difference(one, variants[chosen], metric, split, groups or {}) for name, one in others.items()
    }
    rows = [
        _row(name, one, metric, files.get(name), files.get(chosen), keys, apart.get(name))
        for name, one in variants.items()
    ]
    printed = sweep is not None and any(row.paper is not None for row in rows)
    return Table(
        title=f"{sweep.name}: {sweep.title}" if sweep else "",
        dataset=dataset,
        split=split,
        metric=metric,
        samples=int(runs[0].evaluation["samples"]),
        base=chosen,
        rows=rows,
        source=sweep.source if sweep and printed else "",
        setting=(find_by_key(sweep.settings, keys) or "") if sweep and printed else "",
        groups=next((row.difference.groups for row in rows if row.difference and row.difference.groups), {}),
        warnings=_warnings(sweep, keys, rows) if sweep else [],
        differs=_differences_from_paper(variants, files, keys),
        notes=[*_settings_note(runs, sweep, keys), *_notes(runs, rows, chosen)],
    )


def _subject(runs: Sequence[ScoredRun]) -> tuple[str, tuple[str, str]]:
    """The data set, and the keys by which a sweep file tells it from others."""
    subjects = sorted({(run.dataset, str(run.recipe["task"])) for run in runs})
    if len(subjects) > 1:
        listed = " and ".join(f"{dataset} ({task})" for dataset, task in subjects)
        raise UsageError(f"runs on {listed} make no table", hint="name runs on one data set")
    ((dataset, task),) = subjects
    return dataset, keys_of(dataset, task)


def _by_variant(runs: Sequence[ScoredRun], sweep: Sweep | None) -> dict[str, list[ScoredRun]]:
    variants: dict[str, list[ScoredRun]] = {}
    for run in runs:
        variants.setdefault(run.row, []).append(run)
    for name, members in variants.items():
        seeds = [run.seed for run in members]
        twice = next((run for run in members if seeds.count(run.seed) > 1), None)
        if twice is not None:
            raise UsageError(
                f"two runs of '{name}' have seed {twice.seed}, {twice.path} among them",
                hint="name the runs of one sweep, or runs of other variants or seeds",
            )
    order = [row.name for row in sweep.rows if row.name in variants] if sweep else []
    return {name: variants[name] for name in dict.fromkeys([*order, *variants])}


def _base(asked: str | None, variants: Mapping[str, object], sweep: Sweep | None) -> str:
    if asked is not None and asked not in variants:
        raise UsageError(f"--base {asked}: no row is called so", hint=f"the rows: {', '.join(variants)}")
    return asked or (sweep.base if sweep else next(iter(variants)))


def _row(
    name: str,
    runs: Sequence[ScoredRun],
    metric: str,
    row: SweepRow | None,
    base: SweepRow | None,
    keys: Sequence[str],
    difference: Difference | None,
) -> TableRow:
    target, base_target = (one.target(keys) if one else None for one in (row, base))
    of_base = base is not None and row is base
    return TableRow(
        name=name,
        scores={run.seed: run.score(metric) for run in runs if run.failure is None},
        failed=sum(run.failure is not None for run in runs),
        paper=find_by_key(row.paper, keys) if row else None,
        target=target is not None,
        paper_difference=None if of_base or target is None or base_target is None else round(target - base_target, 2),
        difference=difference,
        note=row.note if row else "",
    )


def _warnings(sweep: Sweep, keys: Sequence[str], rows: Sequence[TableRow]) -> list[str]:
    """The file's notes that are for this store and its rows."""
    own = [note for key in keys for note in sweep.notes_for.get(key, ())]
    return [*sweep.notes, *own, *(f"{row.name}: {row.note}" for row in rows if row.note)]


def _differences_from_paper(
    variants: Mapping[str, Sequence[ScoredRun]], files: Mapping[str, SweepRow], keys: Sequence[str]
) -> list[str]:
    """What separates the runs from the published protocol; what a row changes on purpose is no difference."""
    rows_of: dict[str, list[str]] = {}
    for name, runs in variants.items():
        overrides = files[name].overrides_on(keys) if name in files else name.split()
        own = {override.partition("=")[0].strip() for override in overrides}
        for sentence in dict.fromkeys(line for run in runs for line in run.evaluation["differs"]):
            changed = _RECIPE.match(sentence)
            if changed is None or changed[1] not in own:
                rows_of.setdefault(sentence, []).append(name)
    return [
        sentence if len(names) == len(variants) else f"{sentence} ({', '.join(names)})"
        for sentence, names in rows_of.items()
    ]


def _settings_note(runs: Sequence[ScoredRun], sweep: Sweep | None, keys: Sequence[str]) -> list[str]:
    """That the printed numbers are of other backbones than the row that evaluation compares this store with."""
    printed = find_by_key(sweep.settings, keys) if sweep else None
    nearest = (runs[0].evaluation["paper"] or {}).get("setting")
    if printed is None or nearest in (None, printed):
        return []
    return [
        f"differences are from {nearest}, the published setting nearest to this store; what is printed is {printed}"
    ]


def _notes(runs: Sequence[ScoredRun], rows: Sequence[TableRow], base: str) -> list[str]:
    notes = list(dict.fromkeys(str(note) for run in runs for note in run.evaluation["notes"]))
    if base not in [row.name for row in rows]:
        notes.append(f"there are no runs of the row '{base}', so no differences from it")
    if len(rows) > 2:
        notes.append(
            f"intervals are of each row by itself: of {len(rows) - 1} rows that do not differ from {base}, one in "
            "twenty would seem to"
        )
    differences = [row.difference for row in rows if row.difference and row.difference.interval]
    if any(len(difference.seeds) == 2 for difference in differences):
        notes.append("two seeds say next to nothing of how much seeds differ, so their intervals are wide: train more")
    without = dict.fromkeys(row.difference.without for row in rows if row.difference and row.difference.without)
    return [*notes, *(f"no interval: {reason}" for reason in without)]
