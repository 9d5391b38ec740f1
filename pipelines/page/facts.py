"""What was run and on which bytes: the facts of a subject's runs, said once where they are the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mettle_cache.pipelines.page.runs import PageRun, PageStore
from mettle_cache.pipelines.page.words import method_name
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.report.units import count

_MOST_RECIPES = 12


@dataclass(frozen=True)
class Fact:
    """``values`` are one for all runs, or several, each with the runs that it is for."""

    name: str
    values: list[tuple[str, str]]


def run_facts(runs: Sequence[PageRun], stores: Sequence[PageStore | str]) -> list[Fact]:
    """The facts of some runs, each with its store or why that cannot be told of."""
    told = [_facts_of(run, store) for run, store in zip(runs, stores, strict=True)]
    names = dict.fromkeys(name for facts in told for name in facts)
    return [Fact(name, _merge([facts.get(name, "not known") for facts in told], runs)) for name in names]


def _merge(values: Sequence[str], runs: Sequence[PageRun]) -> list[tuple[str, str]]:
    of_value: dict[str, list[str]] = {}
    for value, run in zip(values, runs, strict=True):
        of_value.setdefault(printable(value), []).append(run.label)
    if len(of_value) == 1:
        return [(next(iter(of_value)), "")]
    return [(value, ", ".join(map(printable, labels))) for value, labels in of_value.items()]


def _facts_of(run: PageRun, store: PageStore | str) -> dict[str, str]:
    recipe, reference = run.config.recipe, run.config.store
    facts = {"Data set": reference.dataset}
    if run.scored:
        dropped = int(run.evaluation["dropped"])
        left_out = f", {count(dropped, 'sample')} left out for want of tokens" if dropped else ""
        facts["Scored on"] = f"{run.evaluation['split']}, {count(int(run.evaluation['samples']), 'sample')}{left_out}"
    facts["Method"] = f"{method_name(run.method)}: {_options(recipe.get(run.method))}".removesuffix(": ")
    facts["Head"] = _options(recipe.get("head"))
    facts["Training"] = _options(recipe.get("train"))
    facts["Recipe"] = str(recipe["name"]) + (f", {run.config.variant}" if run.config.variant else "")
    facts["Layers read"] = str(recipe.get("layers", "all"))
    facts["Seed"] = str(run.config.seed)
    facts.update(_epoch_facts(run))
    facts.update(_store_facts(run, store))
    return facts


def _epoch_facts(run: PageRun) -> dict[str, str]:
    if not run.scored:
        return {"Epochs done": str(len(run.epochs))}
    one = run.evaluation
    times = int(one["times_evaluated"])
    chosen = f"{one['best_epoch']} of {len(run.epochs) or '?'}, chosen on {one['selected_on']}"
    return {
        "Epoch": chosen if one["selected_on"] != "last" else f"{one['best_epoch']}, the last one",
        "Weights": str(one["checkpoint_digest"]),
        "Times scored": "once" if times == 1 else f"{times} times: a choice among them would be optimistic",
    }


def _store_facts(run: PageRun, store: PageStore | str) -> dict[str, str]:
    reference = run.config.store
    facts = {"Tokens": reference.codec, "Store's key": reference.key_digest}
    if reference.content:
        facts["Store's content"] = reference.content
    if isinstance(store, str):
        return facts
    stages = store.facts["stages"]
    layers = sum(int(stage["layers"]) for stage in stages)
    facts["Tokens"] = f"{reference.codec}, {count(layers, 'layer')} in {store.path.name}"
    for modality, fingerprint in store.facts["key"]["extraction"].get("backbones", {}).items():
        facts[f"Backbone, {modality}"] = _backbone(fingerprint)
    if command := store.facts["provenance"].get("command"):
        facts["Extracted by"] = str(command)
    return facts


def _backbone(fingerprint: Mapping[str, Any]) -> str:
    weights = fingerprint.get("weights", {})
    digest = f", {weights['digest']}" if weights.get("digest") else ""
    return f"{fingerprint.get('architecture', 'unknown')}, weights {weights.get('kind', 'unknown')}{digest}"


def _options(table: object) -> str:
    """A table of a recipe in one line."""
    if not isinstance(table, Mapping):
        return "" if table is None else str(table)
    return ", ".join(f"{name} = {value}" for name, value in table.items() if not isinstance(value, Mapping))


def recipes(runs: Sequence[PageRun]) -> list[tuple[str, str]]:
    """The distinct recipes in full, each with the runs that have it."""
    import json

    of_text: dict[str, list[str]] = {}
    for run in runs:
        of_text.setdefault(json.dumps(run.config.recipe, indent=2), []).append(run.label)
    return [(", ".join(map(printable, labels)), text) for text, labels in of_text.items()][:_MOST_RECIPES]
