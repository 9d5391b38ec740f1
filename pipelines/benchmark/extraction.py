"""A small extraction, as a whole and in parts that can be timed one by one; it writes its own media.

Parts run in threads, as they do in the stream of an extraction.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark.readers import same_arrays
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.encoding import encode_group
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    PreparedClip,
    build_extractor,
    open_config_dataset,
    store_spec,
)
from mettle_cache.pipelines.extract.plan import run_passes
from mettle_cache.pipelines.extract.stream import reproducible_passes, stream_clips
from mettle_cache.store.format.codecs import NO_STATIC, get_codec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.shards import stored_arrays
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The first ``clips`` clips of a data set, extracted into stores under ``folder``."""

    config: ExtractConfig
    extractor: Extractor
    clips: int
    folder: Path

    @classmethod
    def set_up(cls, config: ExtractConfig, clips: int, folder: Path) -> Extraction:
        """Load the backbones and open the media."""
        folder.mkdir(exist_ok=True)
        extractor = build_extractor(config, open_config_dataset(config))
        return cls(config=config, extractor=extractor, clips=clips, folder=folder)

    def in_codec(self, name: str) -> Extraction:
        """The same in another codec; its pilot looks at the first clip alone, which is enough to be timed."""
        codec = get_codec(name)
        pilot, static = codec.pilot(self.extractor.layers), NO_STATIC
        if pilot is not None:
            pilot.add(self.tokens)
            static = pilot.finish()
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        extractor = replace(self.extractor, codec=codec, static=static)
        return replace(self, config=replace(self.config, codec=name), extractor=extractor, folder=folder)

    @property
    def segments(self) -> int:
        return self.clips * self.extractor.dataset.segments

    @cached_property
    def prepared(self) -> tuple[PreparedClip, ...]:
        """The clips, decoded."""
        return tuple(self.extractor.prepare(index) for index in range(self.clips))

    @cached_property
    def passes(self) -> list[list[Tensor]]:
        """The inputs of each forward pass, on the device: whole clips, as the stream groups them."""
        return [
            [self._stack([self.prepared[index].inputs[number] for index in group]) for number in self._numbers]
            for group in self.extractor.groups(range(self.clips))
        ]

    @cached_property
    def tokens(self) -> dict[str, Tensor]:
        """The tokens ``[T, N, D]`` of the first clip, on the device, of the layers that are stored."""
        segments, names = self.extractor.dataset.segments, {layer.name for layer in self.extractor.layers}
        tokens: dict[str, Tensor] = {}
        with reproducible_passes(self.extractor.device), torch.inference_mode():
            for backbone, x in zip(self.extractor.backbones, self.passes[0], strict=True):
                made = backbone.forward_tokens(x)
                tokens |= {name: value[:segments].clone() for name, value in made.items() if name in names}
        return tokens

    @cached_property
    def codes(self) -> dict[str, LayerTokens]:
        """The same, encoded, in host memory."""
        return self._encoded()

    def decode(self) -> None:
        """Read and preprocess the media of one clip."""
        with reproducible_passes(self.extractor.device):
            self.extractor.prepare(0)

    def forward(self) -> None:
        """Every forward pass, as many at once as the stream runs; the tokens are thrown away."""
        extractor = self.extractor
        run_passes(extractor.backbones, self.passes, at_once=extractor.passes_at_once, device=extractor.device)

    def encode(self) -> None:
        """Encode one clip's tokens, and take the codes to the host."""
        with reproducible_passes(self.extractor.device):
            self._encoded()

    def write(self) -> None:
        """Write one clip's codes, durably."""
        with reproducible_passes(self.extractor.device), self._open_writer(self.folder / "one.zarr") as writer:
            writer.write_clip(0, self.codes, source="0" * 32)

    def whole(self) -> None:
        """Extract every clip into a new store; :meth:`clear` comes first."""
        self._extract(self.folder / "whole.zarr")

    def clear(self) -> None:
        """Remove the store of :meth:`whole`."""
        shutil.rmtree(self.folder / "whole.zarr", ignore_errors=True)

    def check_store(self) -> None:
        """Extract everything once, and compare the first clip with what one forward pass gives.

        Raises
        ------
        RunError
            They differ.
        """
        path = self.folder / "checked.zarr"
        self._extract(path)
        with TokenStore.open(path, allow_unfinished=True) as store:
            read = store.read([0]).layers
        for name, codes in self.codes.items():
            if not same_arrays(stored_arrays(read[name][0]), stored_arrays(codes)):
                raise RunError(f"the stream stores other tokens than one forward pass gives, in layer {name}")
        shutil.rmtree(path)

    def _encoded(self) -> dict[str, LayerTokens]:
        extractor = self.extractor
        tokens, later = [(0, self.tokens)], extractor.checks_later
        return encode_group(tokens, extractor.codec, extractor.layers, extractor.static, checks_later=later)[0]

    def _extract(self, path: Path) -> None:
        with self._open_writer(path) as writer:
            outcomes = list(stream_clips(self.extractor, writer, range(self.clips), threading.Event()))
        failed = [outcome.error for outcome in outcomes if outcome.error]
        if failed or len(outcomes) != self.clips:
            raise RunError(f"the bench's own media could not be extracted: {failed}")

    @property
    def _numbers(self) -> range:
        return range(len(self.extractor.backbones))

    def _stack(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips ``[T, ...]`` as one batch of the shape that the extractor always computes, ``[clips * T, ...]``."""
        missing = self.extractor.clips_a_batch - len(clips)
        whole = torch.cat((*clips, *(torch.zeros_like(clips[0]) for _ in range(missing))))
        return whole.to(self.extractor.device)

    def _open_writer(self, path: Path) -> StoreWriter:
        return StoreWriter.create_or_resume(path, store_spec(self.extractor, replace(self.config, out=path)))


# what clips of the published data sets have, so that decoding costs what it would
PICTURE = (640, 360)
# a clip's ten pictures and its recording, with room to spare
CLIP_BYTES = 2 << 20


def write_media(root: Path, clips: int) -> None:
    """Write at least ``clips`` clips of AVE in frames/ and wave/: JPEG pictures and 16-bit WAV files."""
    write_demo_ave(root, train=max(1, clips - 2), val=1, test=1, layout="frames")
    for path in sorted((root / "frames").glob("*/*.jpg")):
        with Image.open(path) as picture:
            large = picture.resize(PICTURE, Image.Resampling.BICUBIC)
        large.save(path, quality=90)
