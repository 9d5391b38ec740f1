"""One published setting as a bench runs it: recipe, backbones, layers, and samples of its task's form.

Shapes: B samples, T frames of a sample (all segments of its clips).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch

from mettle_cache.backbones import Backbone, create_backbone, layer_table, shared_audio
from mettle_cache.backbones.factory import frozen_parameters
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.pipelines.benchmark.costs.published import ENCODERS
from mettle_cache.pipelines.benchmark.fullsize import BenchData, ave_data, bench_splits, clip_ids
from mettle_cache.pipelines.benchmark.heads import TINY_BACKBONE
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.preprocessing import SHARED
from mettle_cache.tasks.avs.task import MASK_BYTES
from mettle_cache.tasks.protocol import PublishedRow, Task
from mettle_cache.tasks.registry import TASKS, get_task

DEFAULT_SETTING = "ave-swin-htsat"
# AVSBench's videos: five seconds, of which S4's training has a mask of the first
AVS_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class CostSetting:
    """A published setting, with toy backbones if ``tiny``; ``row`` is its line of the task's."""

    row: PublishedRow
    tiny: bool = False

    @property
    def visual(self) -> str:
        return TINY_BACKBONE if self.tiny else self.row.visual

    @property
    def audio(self) -> str:
        return SHARED if self.tiny else self.row.audio

    @property
    def task(self) -> str:
        return load_recipe(self.row.setting).task

    def recipe(self, method: str | None = None) -> Recipe:
        """The setting's recipe; with another ``method`` than its own, that with its default options.

        Raises
        ------
        ConfigError
            There is no such method, or the task does not take it.
        """
        return load_recipe(self.row.setting, [] if method is None else [f"method={method}"])

    def adapted_recipe(self) -> Recipe:
        """The task's decoder on the mean tokens of the last blocks, as adapters inside of backbones leave them."""
        return replace(self.recipe("linear"), layers="last:1")

    def all_layers(self) -> tuple[tuple[LayerSpec, ...], tuple[LayerSpec, ...]]:
        """Those of both backbones."""
        heard = self.visual if self.audio == SHARED else self.audio
        return layer_table(self.visual, "visual"), layer_table(heard, "audio")

    def layers(self, recipe: Recipe) -> tuple[LayerSpec, ...]:
        """What a store for the recipe holds: its selection of the layers of both backbones."""
        visual, audio = self.all_layers()
        return select_layers((*visual, *audio), recipe.layers)

    def backbones(self, device: torch.device) -> tuple[Backbone, Backbone]:
        """Both, with random weights."""
        visual = create_backbone(self.visual, weights="random").to(device)
        if self.audio == SHARED:
            return visual, shared_audio(visual)
        return visual, create_backbone(self.audio, weights="random").to(device)

    def data(self, samples: int) -> BenchData:
        """Samples of the task's form."""
        if self.task == "avel":
            return ave_data(samples)
        vocabulary = get_task(self.task).published_vocabulary
        if self.task == "avvp":
            table = _parsing_samples(samples, vocabulary["categories"])
            return BenchData(dataset="llp", clips=clip_ids(samples), samples=table, vocabulary=vocabulary)
        masks = AVS_FRAMES if self.row.dataset == "avs-ms3" else 1
        return BenchData(
            dataset=self.row.dataset,
            clips=clip_ids(samples * AVS_FRAMES),
            samples=_mask_samples(samples, masks),
            vocabulary=vocabulary,
            segments=1,
        )

    @property
    def frames(self) -> int:
        """T."""
        data = self.data(1)
        return len(data.clips) * data.segments

    def bound_task(self, recipe: Recipe, layers: Sequence[LayerSpec], samples: int) -> Task:
        """The recipe's task on layers that come from backbones.

        Raises
        ------
        UsageError
            The method does not fit the layers.
        """
        data = self.data(samples)
        return get_task(recipe.task)(
            layers,
            samples=data.samples,
            vocabulary=data.vocabulary,
            segments=data.segments,
            method=recipe.method_choice(),
            options=recipe.head,
        )

    def head(self, recipe: Recipe, layers: Sequence[LayerSpec], *, samples: int, device: torch.device) -> Run:
        """A head in training on layers that come from backbones."""
        return Run(self.bound_task(recipe, layers, samples), recipe.train, seed=0, device=device)

    def trained(self, recipe: Recipe) -> int:
        """Parameters of the recipe's head, with those that the published code registers and never uses.

        Raises
        ------
        UsageError
            As :meth:`bound_task`.
        """
        with on_meta():
            model = self.bound_task(recipe, self.layers(recipe), 1).build_model()
        return sum(parameter.numel() for parameter in model.parameters()) + (0 if self.tiny else self.row.unused)

    @property
    def frozen(self) -> int:
        """Parameters of the backbones as the paper counts them: whole checkpoints with their classifiers."""
        names = [self.visual] if self.audio == SHARED else [self.visual, self.audio]
        return sum(map(frozen_parameters, names))

    @property
    def counted_trainable(self) -> int:
        """Those of them that the published share counts as trainable."""
        return 0 if self.tiny else sum(map(frozen_parameters, self.row.counted_trainable))


def find_setting(name: str | None, *, tiny: bool = False) -> CostSetting:
    """A setting by its recipe's name; None: the paper's best line of AVEL.

    Raises
    ------
    UsageError
        The paper prints no costs of such a setting.
    """
    rows = {row.setting: row for task in map(get_task, TASKS.names()) for row in task.published}
    chosen = name or DEFAULT_SETTING
    if chosen not in ENCODERS or chosen not in rows:
        raise UsageError(
            f"--recipe {chosen}: the paper prints no costs of such a setting", hint=f"one of: {', '.join(ENCODERS)}"
        )
    return CostSetting(row=rows[chosen], tiny=tiny)


def _parsing_samples(samples: int, categories: Sequence[str]) -> pa.Table:
    """LLP's form: a category is heard and seen in the first second."""
    labels = [[categories[sample % len(categories)]] for sample in range(samples)]
    ends: Mapping[str, Any] = {
        f"{modality}_{part}": values
        for modality in ("audio", "visual")
        for part, values in (("labels", labels), ("starts", [[0]] * samples), ("ends", [[1]] * samples))
    }
    names = list(clip_ids(samples))
    return pa.table(
        {
            "row": list(range(samples)),
            "clip": names,
            "split": bench_splits(samples),
            "filename": names,
            "labels": labels,
            **ends,
        }
    )


def _mask_samples(samples: int, masks: int) -> pa.Table:
    """AVSBench's form: videos of five frames that are clips of their own, ``masks`` of them with half a mask."""
    frames = clip_ids(samples * AVS_FRAMES)
    half = bytes([0xF0]) * MASK_BYTES
    return pa.table(
        {
            "row": list(range(samples)),
            "clip": [f"video-{sample:05d}" for sample in range(samples)],
            "split": bench_splits(samples),
            "clips": [list(frames[sample * AVS_FRAMES :][:AVS_FRAMES]) for sample in range(samples)],
            "masks": [[half] * masks] * samples,
        }
    )
