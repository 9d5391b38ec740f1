"""Cards: the README of a repository, written from the records. Every number in one comes from a file beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.run_folder import RunFolder

if TYPE_CHECKING:
    from mettle_cache.store import TokenStore
    from mettle_cache.store.verify import VerifyReport

_STORE = """# Tokens of {dataset}

Every stored layer's tokens of {clips} clips, made once by frozen backbones; heads are trained from them by
mettle-cache without the backbones or the media.

{facts}

Made with `{command}` (mettle-cache {made}).

    mettle pull {place} --out {name}
    mettle train --from-cache {name}

## What is verified, and what is not

- Before it was pushed: metadata, records and file sizes of all clips agree{failed}.
- Every chunk has a checksum and every clip a record; `mettle pull` compares all bytes with them.
- The key names all that decides the bytes: {key}.
- Not verified: that the media were the data set's own, and that you may use them: the annotations and the clips' ids
  are in here, the media are not.
"""
_RUNS = """# {title}

{what} trained by mettle-cache on stored tokens of frozen backbones, which are
not in here: a run reads the tokens of a store with the key {key} (data set {dataset}, codec {codec}).

{table}
{paper}
    mettle pull {place} --out {name}
    mettle evaluate {name} --store STORE

## What is verified, and what is not

{verified}
"""
_HEAD = """# {title}

A head trained by mettle-cache, folded for inference, in one file.
`mettle_cache.pipelines.evaluate.export.load_exported("{name}")` makes the module from it.

## What is verified, and what is not

- The file is sealed: its digest covers the weights and their description, and `mettle pull` compares it.
- Not in here: scores, and the run that it was exported from.
"""


def store_card(store: TokenStore, report: VerifyReport, place: str) -> str:
    """The card of a finished store, which goes to ``place`` on the hub."""
    prints = store.key["extraction"].get("backbones", {})
    rows = [
        ("data set", f"{store.dataset}, {store.segments} segments a clip"),
        ("clips", f"{report.clips}, of which {report.failed} failed"),
        ("layers", f"{len(store.layers)}: {store.layers[0].name} to {store.layers[-1].name}"),
        ("codec", store.codec),
        ("bytes", format_bytes(sum(file.stat().st_size for file in Path(store.path).rglob("c.*") if file.is_file()))),
        ("key", f"`{store.key_digest}`"),
        *((f"backbone, {name}", _backbone(fingerprint)) for name, fingerprint in prints.items()),
    ]
    provenance = store.provenance
    body = _STORE.format(
        dataset=store.dataset,
        clips=report.clips,
        facts=_table(("", ""), rows),
        command=provenance.get("command", "another program"),
        made=provenance.get("mettle-cache", "of an unknown version"),
        place=place,
        name=f"cache/{Path(store.path).name}",
        failed=f"; {report.failed} clips failed and have no tokens" if report.failed else "",
        key=f"`{store.key_digest}`",
    )
    return _front_matter(["audio-visual", "token-store", store.dataset]) + body


def runs_card(path: Path, runs: Sequence[Path], place: str) -> str:
    """The card of a run, or of runs that were trained together, which go to ``place`` on the hub."""
    configs = [RunFolder(run).read_config() for run in runs]
    results = [RunFolder(run).read_result() for run in runs]
    first = configs[0]
    evaluations = [one for result in results for one in result.get("evaluation", {}).values()]
    recipe = str(first.recipe.get("name", "a recipe"))
    rows = [
        (
            "." if run == path else run.relative_to(path).as_posix(),
            config.seed,
            config.variant or "",
            _trained(result.get("training", {})),
            "; ".join(map(_evaluated, result.get("evaluation", {}).values())) or "not evaluated",
        )
        for run, config, result in zip(runs, configs, results, strict=True)
    ]
    body = _RUNS.format(
        title=f"{path.resolve().name}: {recipe}",
        what="A head" if len(runs) == 1 else f"{len(runs)} heads",
        key=f"`{first.store.key_digest}`",
        dataset=first.store.dataset,
        codec=first.store.codec,
        place=place,
        name=f"runs/{path.resolve().name}",
        table=_table(("run", "seed", "variant", "trained", "evaluated"), rows),
        paper=_paper(evaluations),
        verified="\n".join(f"- {line}" for line in _verified(evaluations)),
    )
    tags = ["audio-visual", str(first.recipe.get("task", "")), str(first.recipe.get("method", "")), first.store.dataset]
    return _front_matter(tags) + body


def head_card(path: Path) -> str:
    """The card of an exported head."""
    return _front_matter(["audio-visual"]) + _HEAD.format(title=path.stem, name="head.safetensors")


def _trained(training: Mapping[str, Any]) -> str:
    if not training:
        return "unknown"
    score = training.get("best_score")
    scored = "" if score is None else f", {training['selected_on']} {training['metric']} {score:.2f}"
    return f"epoch {training['best_epoch']} of {training['epochs']}{scored}"


def _evaluated(evaluation: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {value:.2f}" for name, value in evaluation["scores"].items())
    return f"{evaluation['split']}, {evaluation['samples']} samples: {scores}"


def _paper(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The published row beside the first evaluation that has one, with all that separates the two."""
    for evaluation in evaluations:
        paper = evaluation.get("paper")
        if paper:
            ours, metric = evaluation["scores"], evaluation["metric"]
            rows = [
                (name, f"{ours[name]:.2f}" if name in ours else "", value) for name, value in paper["scores"].items()
            ]
            floors = ", ".join(f"{name} {value:.2f}" for name, value in evaluation["floors"].items())
            lines = [f"Beside {paper['source']} ({paper['setting']}); {metric} without a model: {floors}.", ""]
            lines += [_table(("score", "this run", "the paper"), rows), ""]
            if evaluation["differs"]:
                lines += ["The two may not be compared, for they differ:", ""]
                lines += [f"- {difference}" for difference in evaluation["differs"]]
            return "\n" + "\n".join(lines) + "\n"
    return ""


def _verified(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["Every file has a digest in the record, which has one itself; `mettle pull` compares them all."]
    for evaluation in evaluations:
        selected = evaluation["selected_on"]
        optimistic = ", the split that is scored: the score is optimistic" if selected == evaluation["split"] else ""
        times = evaluation["times_evaluated"]
        again = "once" if times == 1 else f"{times} times"
        scored = f"{evaluation['split']}: scored {again} by the data set's protocol"
        lines.append(f"{scored}; the epoch was selected on {selected}{optimistic}.")
        lines += [f"{evaluation['split']}: {note}." for note in evaluation["notes"]]
    if not evaluations:
        lines.append("Not verified: any score on a test split; nobody evaluated it.")
    lines.append("Not verified: that the store's media were the data set's own.")
    return list(dict.fromkeys(lines))


def _backbone(fingerprint: Mapping[str, Any]) -> str:
    weights = fingerprint.get("weights", {})
    known = ", ".join(f"{name} `{value}`" for name, value in weights.items()) if isinstance(weights, dict) else weights
    return f"{fingerprint.get('architecture', 'unknown')}; weights: {known or 'unknown'}"


def _front_matter(tags: Iterable[str]) -> str:
    """The metadata that the hub reads; which licence holds is for the owner of the data to say."""
    listed = "".join(f"- {json.dumps(tag)}\n" for tag in dict.fromkeys(("mettle-cache", *tags)) if tag)
    return f"---\nlibrary_name: mettle-cache\ntags:\n{listed}---\n<!-- mettle-cache {version('mettle-cache')} -->\n\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
