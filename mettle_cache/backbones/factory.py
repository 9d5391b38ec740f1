"""What the rest of the package calls: read a backbone's name, make one, or ask about one without its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mettle_cache.backbones.protocol import PRECISIONS, Backbone, BackboneRequest, Family, SharesAudio
from mettle_cache.backbones.registry import BACKBONES, find_family
from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES, LayerSpec
from mettle_cache.paths import local_path
from mettle_cache.preprocessing import DEFAULT_PREPROCESSING, Preprocessing

LARGEST_SEED = 2**63 - 1


def create_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    modality: str | None = None,
    precision: str = "float32",
    antialias: bool = False,
    exact_dft: bool = False,
    embedding: bool = False,
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
) -> Backbone:
    """A frozen backbone on the CPU, ready for ``forward_tokens``.

    Parameters
    ----------
    name
        A registered or any timm name, with an optional ``@SIZE`` in pixels.
    weights
        None or ``pretrained``: the published weights; ``random``: drawn from ``seed``; otherwise a file.
    modality
        None: the backbone's own. ``audio`` with a visual backbone: the shared mode (a log-mel as a picture).
    precision
        ``float32``, or ``bfloat16``/``float16`` to run the trunk under autocast. Front end and tokens stay float32.
    antialias
        Antialiased resizing of pictures; off as in the peers.
    exact_dft
        HTS-AT only: the reference's convolution in place of the FFT, for audits; 20 times slower.
    embedding
        Give the output of the patch embedding too, where there is one: block 0 of stage 1.
    preprocessing
        What the data set's published code does in its own way (``DatasetInfo.preprocessing``).

    Raises
    ------
    UsageError
        An unknown name, or options that do not fit the backbone.
    WeightsError
        Weights that are missing, unreadable, damaged or of another architecture.
    """
    base, size = split_size(name)
    _check_options(modality, precision, seed)
    chosen = "pretrained" if weights is None else str(weights)
    request = BackboneRequest(name=base, size=size, weights=chosen, seed=seed, modality=modality, precision=precision)
    return find_family(base).create(
        replace(request, antialias=antialias, exact_dft=exact_dft, embedding=embedding, preprocessing=preprocessing)
    )


def _check_options(modality: str | None, precision: str, seed: int) -> None:
    if modality not in (None, *MODALITIES):
        raise UsageError(f"modality '{modality}' is none of {', '.join(MODALITIES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed} is not from 0 to {LARGEST_SEED}")


def shared_audio(visual: Backbone) -> Backbone:
    """The shared mode: the same weights behind an audio front end, its layers named ``audio/...``; no second copy.

    Raises
    ------
    UsageError
        The backbone does not read pictures.
    """
    if visual.modality != "visual" or not isinstance(visual, SharesAudio):
        raise UsageError(f"backbone '{visual.name}' cannot be shared: the shared mode needs a visual backbone")
    return visual.shared_audio()


def layer_table(name: str, modality: str | None = None, *, embedding: bool = False) -> tuple[LayerSpec, ...]:
    """The layers of a backbone, without weights: known for the published ones, else computed in about a second.

    With ``embedding`` the patch embedding comes first, where there is one.

    Raises
    ------
    UsageError
        An unknown name, or a modality or size that the backbone does not have.
    """
    base, size = split_size(name)
    return find_family(base).layers(BackboneRequest(name=base, size=size, modality=modality, embedding=embedding))


def known_layers(name: str, modality: str, *, embedding: bool = False) -> tuple[LayerSpec, ...] | None:
    """The layers of ``NAME[@SIZE]`` where that is known without building a network, else None.

    Raises
    ------
    UsageError, PluginError
        As :func:`layer_table`.
    """
    base, size = split_size(name)
    family = find_family(base)
    if base not in BACKBONES or size is not None:
        return None
    return family.layers(BackboneRequest(name=base, modality=modality, embedding=embedding))


def frozen_parameters(name: str) -> int:
    """Parameters of the published frozen model as the papers count them.

    Source: docs/protocols/avel.md, "Parameter accounting".

    Transformers count with their classifier, CNNs without it; HTS-AT counts every named parameter of the original
    module, its fixed STFT kernels and both AudioSet heads included.
    """
    return find_family(split_size(name)[0]).frozen_parameters()


def weights_at_hand(name: str) -> Path | None:
    """The weights file of a published backbone that this machine has: in ``weights/`` or in the hub's cache.

    Raises
    ------
    UsageError, PluginError
        As :func:`layer_table`.
    """
    base, _ = split_size(name)
    if base in BACKBONES:
        family: Family = BACKBONES.load(base)
        found = family.info().weights_found
        return Path(found) if found is not None and Path(found).is_file() else None
    from mettle_cache.backbones.hub import find_cached
    from mettle_cache.backbones.timm_network import pretrained_cfg

    cfg = pretrained_cfg(base)
    repository = cfg.get("hf_hub_id")
    return find_cached(repository, cfg.get("hf_hub_filename")) if repository else None


SMALLEST, LARGEST = 16, 4096


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone and its weights: ``pretrained``, ``random`` or a file's path. ``name`` keeps its ``@SIZE``."""

    name: str
    weights: str = "pretrained"

    def __str__(self) -> str:
        return self.name if self.weights == "pretrained" else f"{self.name}={self.weights}"


def parse_backbone(text: str) -> BackboneChoice:
    """Read ``NAME[@SIZE][=WEIGHTS]``; whether the name is known is for the registry to say.

    Raises
    ------
    UsageError
        An empty name or empty weights, a file that :func:`~mettle_cache.paths.local_path` refuses, or a size that
        :func:`split_size` does.
    """
    name, separator, weights = text.strip().partition("=")
    name, weights = name.strip(), weights.strip()
    if not name:
        raise UsageError(f"backbone '{text}' has no name", hint="write NAME, NAME@SIZE or NAME=FILE")
    if separator and not weights:
        raise UsageError(
            f"backbone '{text}' names no weights after '='", hint=f"write {name}=FILE, {name}=random, or just {name}"
        )
    split_size(name)
    if weights in ("", "pretrained", "random"):
        return BackboneChoice(name, weights or "pretrained")
    return BackboneChoice(name, str(local_path(weights)))


def split_size(name: str) -> tuple[str, int | None]:
    """``vit_small_patch14_dinov2@224`` to its name and the side of its square input in pixels; None without ``@``.

    Raises
    ------
    UsageError
        A size that is not a whole number from 16 to 4096, or nothing before the ``@``.
    """
    base, separator, digits = name.partition("@")
    if not separator:
        return name, None
    size = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST)) else 0
    if not base or not SMALLEST <= size <= LARGEST:
        raise UsageError(
            f"backbone '{name}': the size after '@' must be a whole number of pixels from {SMALLEST} to {LARGEST}",
            hint=f"for example {base or 'swinv2_l'}@224",
        )
    return base, size
