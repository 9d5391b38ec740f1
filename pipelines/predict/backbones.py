"""The backbones that a head's tokens come from, built as the store records them, from weights found by their digest.

A file's name proves nothing: whatever is found is built, and counts only if it has the digest of the record. What else
a fingerprint says (sizes, normalisation, windows of sound) must be the same too; versions of libraries may differ,
which is said.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mettle_cache.backbones import Backbone, BackboneChoice, parse_backbone, shared_audio
from mettle_cache.backbones.factory import weights_at_hand
from mettle_cache.backbones.published import WEIGHTS_FOLDER
from mettle_cache.errors import RunError, UsageError, WeightsError
from mettle_cache.paths import local_path
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import configured_backbone
from mettle_cache.pipelines.extract.memory import remember_weights, remembered_weights
from mettle_cache.pipelines.train.token_origin import TokenOrigin
from mettle_cache.weights_file import SUFFIXES

Fingerprint = Mapping[str, Any]
_OPTIONS = {
    "--visual": "visual",
    "--audio": "audio",
    "--layers": "layers",
    "--seed": "seed",
    "--precision": "precision",
}
_TRIED = 4


@dataclass(frozen=True)
class BuiltBackbones:
    """Visual and audio, as far as the head reads them, on their device; ``notes`` say what differs from the record."""

    backbones: tuple[Backbone, ...]
    notes: tuple[str, ...]


def build_backbones(
    origin: TokenOrigin,
    modalities: Sequence[str],
    device: torch.device,
    *,
    named: Mapping[str, str | None],
    note: Callable[[str], None],
) -> BuiltBackbones:
    """The backbones of these modalities as the store records them.

    ``named`` are the user's ``NAME=FILE`` by modality, in the place of what is found. ``note`` is told what is looked
    for.

    Raises
    ------
    WeightsError
        The weights are not on this machine, or those that the user named are others.
    UsageError
        The user names another backbone, or the data set or a backbone is not known here.
    RunError
        This version builds another backbone of that name, or the record does not name any.
    """
    config, fingerprints = origin_config(origin), origin.extraction.get("backbones", {})
    lacking = [modality for modality in modalities if modality not in fingerprints]
    if lacking:
        raise RunError(f"the tokens' record has no {' and no '.join(lacking)} backbone: it is damaged")
    search = _Search(config, named, note)
    found: dict[str, Backbone] = {}
    if "visual" in modalities or config.shared:
        found["visual"] = search.find("visual", fingerprints.get("visual") or fingerprints["audio"])
    if "audio" in modalities:
        shared = config.shared
        found["audio"] = shared_audio(found["visual"]) if shared else search.find("audio", fingerprints["audio"])
    notes: list[str] = []
    for modality in modalities:
        notes += _compare(found[modality], fingerprints[modality])
    return BuiltBackbones(tuple(found[modality].to(device) for modality in modalities), tuple(dict.fromkeys(notes)))


def origin_config(origin: TokenOrigin) -> ExtractConfig:
    """The extraction that a record tells of, as far as backbones and data set go; its weights are names of files.

    Raises
    ------
    RunError
        The record tells nothing of it.
    UsageError
        Its data set, or an option, is not known here.
    """
    words = shlex.split(origin.command)
    given: dict[str, Any] = {}
    for option, value in pairwise(words):
        if option in _OPTIONS:
            given[_OPTIONS[option]] = int(value) if option == "--seed" else value
    if "visual" not in given or "audio" not in given:
        raise RunError("the store's record does not name the backbones of its tokens, so they cannot be built")
    options = origin.extraction.get("options", {})
    return ExtractConfig(
        dataset=origin.dataset,
        codec=origin.codec,
        options=tuple(f"{name}={value}" for name, value in options.items()),
        **given,
    )


@dataclass
class _Search:
    """Looks for weights; ``tried`` is what was found and is not it."""

    config: ExtractConfig
    named: Mapping[str, str | None]
    note: Callable[[str], None]
    tried: list[str] = field(default_factory=list)

    def find(self, modality: str, fingerprint: Fingerprint) -> Backbone:
        """The backbone of a modality with the weights of the fingerprint."""
        choice = parse_backbone(self.config.visual if modality == "visual" else self.config.audio)
        weights, self.tried = fingerprint.get("weights", {}), []
        if weights.get("kind") == "random":
            return self._build(modality, BackboneChoice(choice.name, "random"), int(weights.get("seed", 0)))
        wanted = str(weights.get("digest"))
        if (named := self.named.get(modality)) is not None:
            return self._named(modality, choice.name, named, wanted)
        for path in _distinct(_candidates(choice, wanted)):
            try:
                backbone = self._build(modality, BackboneChoice(choice.name, str(path)))
            except (WeightsError, UsageError) as error:
                self.tried.append(f"{path} ({error.message.splitlines()[0][:120]})")
                continue
            if _digest(backbone) == wanted:
                remember_weights(wanted, path)
                return backbone
            self.tried.append(f"{path} (other weights)")
        raise self._not_found(modality, choice.name, wanted)

    def _named(self, modality: str, name: str, text: str, wanted: str) -> Backbone:
        given = parse_backbone(text)
        if given.name != name:
            raise UsageError(
                f"--{modality} {given.name}: the tokens that this head reads are {name}'s",
                hint=f"give its weights: --{modality} {name}=FILE, or nothing where they can be found",
            )
        backbone = self._build(modality, given)
        if (found := _digest(backbone)) != wanted:
            raise WeightsError(
                f"--{modality} {text}: these are other weights (digest {found}) than those of the head's tokens "
                f"(digest {wanted})",
                hint="its answers would mean nothing; give the file that the store was extracted with",
            )
        if Path(given.weights).is_file():
            remember_weights(wanted, Path(given.weights))
        return backbone

    def _build(self, modality: str, choice: BackboneChoice, seed: int = 0) -> Backbone:
        self.note(f"load {choice}")
        text = f"{choice.name}={choice.weights}"
        config = replace(self.config, seed=seed, visual=text if modality == "visual" else self.config.visual)
        return configured_backbone(config if modality == "visual" else replace(config, audio=text), modality)

    def _not_found(self, modality: str, name: str, wanted: str) -> WeightsError:
        more = len(self.tried) - _TRIED
        listed = "; ".join(self.tried[:_TRIED]) + (f"; and {more} more" if more > 0 else "")
        looked = f"tried: {listed}" if listed else "nothing like it was found"
        return WeightsError(
            f"the weights of {name} ({modality}, digest {wanted}) are not on this machine; {looked}",
            hint=f"give the file that the store was extracted with: --{modality} {name}=FILE, or put it into weights/",
        )


def _candidates(choice: BackboneChoice, wanted: str) -> Iterator[Path]:
    """Files that may hold the weights, likely ones first."""
    if (remembered := remembered_weights(wanted)) is not None:
        yield remembered
    if (cached := weights_at_hand(choice.name)) is not None:
        yield cached
    folders = [Path("weights")]
    if variable := os.environ.get(WEIGHTS_FOLDER):
        folders.append(local_path(variable))
    # the record keeps the name of the file that the user had given
    file = Path(choice.weights).name
    for folder in folders:
        there = [path for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file()]
        yield from sorted(there, key=lambda path: (path.name != file, choice.name not in path.name, path.name))


def _distinct(paths: Iterator[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            yield path


def _digest(backbone: Backbone) -> str:
    weights = backbone.fingerprint().get("weights")
    return str(weights.get("digest")) if isinstance(weights, Mapping) else ""


def _compare(backbone: Backbone, recorded: Fingerprint) -> Iterator[str]:
    """Notes of other versions. Raises RunError where anything else differs that changes tokens."""
    ours = backbone.fingerprint()
    differing = [key for key in {**ours, **recorded} if ours.get(key) != recorded.get(key)]
    other = [key for key in differing if key != "versions"]
    if other:
        shown = [f"{key} is {str(ours.get(key))[:80]} here, {str(recorded.get(key))[:80]} there" for key in other[:2]]
        raise RunError(
            f"{backbone.name} ({backbone.modality}) is built otherwise here than for the head's tokens: "
            f"{'; '.join(shown)}",
            hint="use the version of mettle-cache that extracted the store",
        )
    here, there = (table.get("versions") for table in (ours, recorded))
    if differing and isinstance(here, Mapping) and isinstance(there, Mapping):
        listed = [f"{name} {here.get(name)} ({there.get(name)} then)" for name in here if here[name] != there.get(name)]
        yield f"tokens may differ in their last bits from those that were trained on: {', '.join(listed)}"
