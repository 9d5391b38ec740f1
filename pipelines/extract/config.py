"""The configuration of an extraction, and the report of its outcome."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.backbones.factory import known_layers, parse_backbone
from mettle_cache.backbones.protocol import EXACT, PRECISIONS
from mettle_cache.datasets import DATASETS, dataset_folder, dataset_info, resolve_options
from mettle_cache.datasets.media.budget import CLIPS_A_BUDGET, MEMORY, MemoryBudget
from mettle_cache.devices import check_device_name
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.layers import MODALITIES, asks_for_embedding, select_layers
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.codec_choice import CodecChoice, parse_codec
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.preprocessing import SHARED, SHARED_MEAN, Preprocessing
from mettle_cache.store.format.codecs import DEFAULT_CODEC, get_codec
from mettle_cache.store.format.layout import MOST_CLIPS_PER_SHARD

if TYPE_CHECKING:
    from mettle_cache.store.precision_record import PrecisionRecord

STORES = Path("cache")
LEAST_MEMORY, MOST_MEMORY = 64 * 10**6, 10**15


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """One extraction.

    Attributes
    ----------
    root
        None: the data set's own default, ``data/AVE`` for ``ave``.
    visual, audio
        ``NAME[@SIZE][=WEIGHTS]``; audio may be ``shared``: the visual backbone reads the log-mel as a picture. It hears
        a sound file as the data set's published code does; ``shared=mean``: the mean of its channels at 16 kHz.
    codec
        ``NAME``, or ``NAME=STORE``: with the static arrays of a store that is there instead of those of a pilot.
    layers
        None: what the data set's task reads.
    clips_per_shard
        How many clips share a file of each stage; None: by their size
        (:func:`~mettle_cache.store.format.layout.default_clips_per_shard`).
    options
        Choices that the data set offers, each ``NAME=VALUE``; the others stay at their defaults.
    out
        None: :func:`default_store_path`.
    seed
        Of random weights; changes nothing else.
    part
        (i, n), i from 0: only the clips of the i-th of n runs. The part that comes last finishes the store.
    workers, scheduler
        Spread the clips over that many local processes, or over the dask.distributed cluster at that address.
    limit
        Take only the first so many clips of each split, for a quick trial; without it the same store gets the others.
    skip_missing
        Go on without the clips whose media are missing or unreadable, and be content with a store that lacks them.
    refresh
        Extract the clips again whose media are not those that the store was made of, instead of refusing them.
    memory
        Bytes that media may take while they are decoded, of all clips together; a quarter of it for one clip. Each of
        several workers has its part of it, but always enough for one clip. Changes no byte of the store.
    device
        None: a GPU where there is one. ``precision`` other than float32 runs the backbones under autocast.

    Raises
    ------
    ConfigError
        All that is wrong with the above and can be seen without touching the disk.
    """

    dataset: str
    root: Path | None = None
    visual: str = "swinv2_l"
    audio: str = "htsat"
    codec: str = DEFAULT_CODEC
    layers: str | None = None
    clips_per_shard: int | None = None
    options: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 0
    part: tuple[int, int] = (0, 1)
    workers: int = 0
    scheduler: str | None = None
    limit: int | None = None
    skip_missing: bool = False
    refresh: bool = False
    memory: int = MEMORY
    device: str | None = None
    precision: str = EXACT

    @property
    def codec_choice(self) -> CodecChoice:
        """The codec's name, and the store that it takes its static arrays from, if any."""
        return parse_codec(self.codec)

    @property
    def memory_budget(self) -> MemoryBudget:
        """A new budget of ``memory``, or of one worker's part of it."""
        clip = self.memory // CLIPS_A_BUDGET
        return MemoryBudget(max(clip, self.memory // max(1, self.workers)), clip)

    @property
    def shared(self) -> bool:
        """Whether the visual backbone reads sound, too."""
        return self.audio in (SHARED, SHARED_MEAN)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the data set's published code does in its own way, as far as it is wanted. Raises UsageError."""
        published = dataset_info(self.dataset).preprocessing
        return published if self.audio == SHARED else replace(published, file_sound=False)

    @property
    def layer_selection(self) -> str:
        """The layers that are chosen, or else those that the data set's task reads. Raises UsageError."""
        return self.layers or DATASETS.row(self.dataset).layers

    def embedding(self, modality: str) -> bool:
        """Whether the backbone of a modality is asked for its patch embedding: a shared one by either modality."""
        heard = MODALITIES if self.shared else (modality,)
        return any(asks_for_embedding(self.layer_selection, one) for one in heard)

    @property
    def dataset_options(self) -> dict[str, str]:
        """Every option of the data set and what was chosen. Raises UsageError."""
        return resolve_options(self.dataset, dict(option.split("=", 1) for option in self.options))

    @property
    def chosen_options(self) -> list[str]:
        """``NAME=VALUE`` of the options that are not at their defaults, in the data set's order. Raises UsageError."""
        usual = resolve_options(self.dataset, {})
        return [f"{name}={value}" for name, value in self.dataset_options.items() if value != usual[name]]

    def words(self, *, without: Sequence[str] = ()) -> list[str]:
        """The options of ``extract`` that give this configuration, as words of a command, but for those of some fields.

        Options with their default value are left away, and those that change nothing of a store.
        """
        defaults = {item.name: item.default for item in fields(self)}
        words = ["--dataset", self.dataset]
        for name in (
            "root",
            "visual",
            "audio",
            "codec",
            "layers",
            "clips_per_shard",
            "seed",
            "limit",
            "precision",
            "out",
        ):
            if name not in without and (value := getattr(self, name)) != defaults[name]:
                words += [f"--{name.replace('_', '-')}", str(value)]
        for option in self.options:
            words += ["--option", option]
        return [*words, *(["--skip-missing"] if self.skip_missing else [])]

    def check_names(self) -> None:
        """Refuse names that nothing answers to, and a folder that is not there, before anything slow is loaded.

        Layers are looked at where those of both backbones are known without building them.

        Raises
        ------
        UsageError
            An unknown data set, option, backbone, codec, layer or device, or a root that is no folder.
        PluginError
            The package that offers one of them is broken.
        """
        _ = self.dataset_options  # raises for an option that there is not
        dataset_folder(self.dataset, self.root)
        get_codec(self.codec_choice.name)
        check_device_name(self.device)
        visual, audio = parse_backbone(self.visual).name, parse_backbone(self.audio).name
        named = {"visual": visual, "audio": visual if audio == SHARED else audio}
        tables = [known_layers(name, modality, embedding=self.embedding(modality)) for modality, name in named.items()]
        layers = [layer for table in tables for layer in table or ()]
        if None not in tables:
            select_layers(layers, self.layer_selection)

    def __post_init__(self) -> None:
        problems = [*self._problems(), *resolve_fields(self, "root", "out")]
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle extract --help")

    def _name_problems(self) -> Iterator[str]:
        for option, text in (("--visual", self.visual), ("--audio", self.audio)):
            try:
                parse_backbone(text)
            except UsageError as error:
                yield f"{option}: {error.message}"
        try:
            parse_codec(self.codec)
        except UsageError as error:
            yield f"--codec: {error.message}"
        if self.audio.startswith(f"{SHARED}=") and not self.shared:
            yield f"--audio {self.audio}: {SHARED} has the weights of --visual; it is {SHARED} or {SHARED_MEAN}"

    def _problems(self) -> Iterator[str]:
        yield from self._name_problems()
        names = [option.partition("=")[0] for option in self.options]
        for option, name in zip(self.options, names, strict=True):
            if not name or "=" not in option:
                yield f"--option {option}: must be NAME=VALUE"
            elif names.count(name) > 1:
                yield f"--option {option}: {name} is given more than once"
        if not 0 <= self.part[0] < self.part[1]:
            yield f"--part {self.part[0] + 1}/{self.part[1]}: the first number must be from 1 to the second"
        if self.clips_per_shard is not None and not 1 <= self.clips_per_shard <= MOST_CLIPS_PER_SHARD:
            yield f"--clips-per-shard {self.clips_per_shard}: must be from 1 to {MOST_CLIPS_PER_SHARD:,}"
        if self.limit is not None and self.limit < 1:
            yield f"--limit {self.limit}: must be 1 or more clips of each split"
        if not 0 <= self.workers <= 1024:
            yield f"--workers {self.workers}: must be from 0 (this process alone) to 1024"
        if self.workers and self.scheduler:
            yield "--workers starts processes here, --scheduler uses a cluster that is there: give one of them"
        if self.precision not in PRECISIONS:
            yield f"--precision {self.precision}: must be one of {', '.join(PRECISIONS)}"
        if not LEAST_MEMORY <= self.memory <= MOST_MEMORY:
            bounds = f"{format_bytes(LEAST_MEMORY)} to {format_bytes(MOST_MEMORY)}"
            yield f"--memory {format_bytes(self.memory)}: must be from {bounds}"
        if not 0 <= self.seed < 1 << 63:
            yield f"--seed {self.seed}: must be a whole number from 0 to 2^63 - 1"


def parse_part(text: str) -> tuple[int, int]:
    """``1/4`` to ``(0, 4)``: users count parts from 1.

    Raises
    ------
    UsageError
        Not two whole numbers i/n with 1 <= i <= n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, flags=re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--part {text}: must be i/n with i from 1 to n", hint="for example --part 1/4")
    return int(match[1]) - 1, int(match[2])


def default_store_path(config: ExtractConfig) -> Path:
    """``cache/<dataset>-<visual>-<audio>.zarr``; what is not as by default joins the name."""
    audio = config.audio if config.shared else parse_backbone(config.audio).name
    parts = [config.dataset, parse_backbone(config.visual).name, audio]
    if config.root is not None and dataset_info(config.dataset).many:
        parts.insert(1, config.root.resolve().name)
    if config.precision != EXACT:
        parts.append(config.precision)
    if config.codec_choice.name != DEFAULT_CODEC:
        parts.append(config.codec_choice.name)
    if config.layers and config.layers != DATASETS.row(config.dataset).layers:
        parts.append(config.layers)
    parts += config.chosen_options
    return STORES / f"{'-'.join(re.sub(r'[^A-Za-z0-9_.@-]+', '_', part) for part in parts)}.zarr"


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """The outcome of an extraction.

    Attributes
    ----------
    clips
        Clips of the whole store; ``pending`` of them wait for other parts.
    written, skipped, failed
        Clips that this run wrote, clips of its part that were there already, and clips that the store lacks for good.
    left_out
        Clips that the store lacks because of ``limit``.
    failures
        Clip id to reason, of the clips that this run could not extract.
    nbytes
        Bytes that this run wrote; ``seconds`` and ``frames_per_second`` are of the streaming alone.
    peak_memory
        The most bytes that a process of this run has held (resident set).
    precision
        How far the store's tokens are from those of float32; None for float32, and where it was not measured.
    """

    store: Path
    clips: int
    written: int
    skipped: int
    failed: int
    pending: int
    nbytes: int
    seconds: float
    frames_per_second: float
    peak_memory: int
    left_out: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skip_missing: bool = False
    precision: PrecisionRecord | None = None

    @property
    def finished(self) -> bool:
        """Whether the store can be read: every clip is committed or recorded as failed."""
        return self.pending == 0

    @property
    def ok(self) -> bool:
        """Whether the store lacks no clip, or may lack some (``skip_missing``)."""
        return self.failed == 0 or self.skip_missing

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "store": str(self.store), "finished": self.finished, "ok": self.ok}
