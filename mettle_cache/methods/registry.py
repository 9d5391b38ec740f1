"""The methods by name. A new one is a module with a :class:`MethodKind`, and one row, here or in another package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mettle_cache.errors import PluginError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.options import Options
from mettle_cache.registry import MethodRow, Registry

if TYPE_CHECKING:
    from mettle_cache.companions import Companion
    from mettle_cache.methods.pooled import PooledLayer
    from mettle_cache.methods.protocol import Method, MethodKind

METHODS = Registry(
    "method",
    "mettle_cache.methods",
    MethodRow,
    (
        MethodRow(
            "lcd",
            "mettle_cache.methods.lcd:KIND",
            summary="Layer-Centric Distillation: meta-tokens attend to each layer's tokens, and are averaged",
            source="Mettle, section 3.2",
        ),
        MethodRow(
            "linear",
            "mettle_cache.methods.linear:KIND",
            summary="linear probing: one linear on the last layer's mean token",
            source="Mettle, Table 5",
        ),
        MethodRow(
            "direct",
            "mettle_cache.methods.direct:KIND",
            summary="the last layer's mean token as it is; only the decoder learns",
            source="Mettle, Table 5",
        ),
        MethodRow(
            "layermean",
            "mettle_cache.methods.layermean:KIND",
            summary="a learned mean of all layers' mean tokens, through one linear a width",
            source="SUPERB, arXiv 2105.01051",
        ),
        MethodRow(
            "molt",
            "mettle_cache.methods.molt:KIND",
            summary="mixture of layer-wise tokens: two adapters a late layer, a router and a fusion; re-derived",
            source="arXiv 2512.00115, abstract",
        ),
        MethodRow(
            "lst",
            "mettle_cache.methods.lst:KIND",
            summary="Ladder Side-Tuning: a narrow transformer beside the backbone, which takes in each layer",
            source="LST, NeurIPS 2022",
        ),
        MethodRow(
            "unipt",
            "mettle_cache.methods.unipt:KIND",
            summary="Universal Parallel Tuning: all layers meet the last one, by confidence",
            source="UniPT, CVPR 2024",
        ),
        MethodRow(
            "sherl",
            "mettle_cache.methods.sherl:KIND",
            summary="all layers but the last, rid of what they repeat, replace the input of the frozen last block",
            source="SHERL, ECCV 2024",
        ),
    ),
)


def method_kind(name: str) -> MethodKind:
    """What stands behind a method's name.

    Raises
    ------
    UsageError
        No method has that name; the message lists those that there are.
    PluginError
        The package that offers it is broken.
    """
    from mettle_cache.methods.protocol import MethodKind  # with PyTorch behind it

    kind = METHODS.load(name)
    if not isinstance(kind, MethodKind):
        raise PluginError(f"{METHODS.row(name).target} is no MethodKind but a {type(kind).__name__}")
    return kind


@dataclass(frozen=True)
class MethodChoice:
    """A method by its name, with its options, and the companions that there are, by name: those of a store or a run."""

    name: str
    options: Options
    companions: Mapping[str, Companion] = field(default_factory=dict, compare=False)

    def check_names(self, offered: Sequence[LayerSpec]) -> None:
        """Raise UsageError where the options name a layer that is not among those offered."""
        key = method_kind(self.name).names_layers
        unknown = sorted(set(getattr(self.options, key)) - {layer.name for layer in offered}) if key else []
        if unknown:
            raise UsageError(
                f"{self.name}.{key}: no such layer is offered: {', '.join(unknown)}",
                hint=f"offered are {offered[0].name} to {offered[-1].name}",
            )

    def layers(self, offered: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
        """The layers that it reads, of those offered. Raises as :meth:`build` does."""
        read = {layer.name for layer in self._sketch(offered).layers}
        return tuple(layer for layer in offered if layer.name in read)

    def pooled(self, offered: Sequence[LayerSpec]) -> tuple[PooledLayer, ...]:
        """Those of them that it reads on a coarser grid alone. Raises as :meth:`build` does."""
        return self._sketch(offered).pooled

    def _sketch(self, offered: Sequence[LayerSpec]) -> Method:
        """The method without memory for its parameters."""
        from mettle_cache.meta_device import on_meta

        with on_meta():
            return self.build(offered)

    def build(self, layers: Sequence[LayerSpec]) -> Method:
        """The method on ``layers``, with new parameters.

        Raises
        ------
        UsageError
            There is no such method, the options are another's, it refuses the layers, or a companion lacks.
        StoreCorruptError, StoreKeyError
            A companion is damaged, or of another store.
        """
        kind = method_kind(self.name)
        if not isinstance(self.options, kind.options_type):
            raise UsageError(
                f"the method {self.name} takes {kind.options_type.__name__}, not {type(self.options).__name__}"
            )
        method = (
            kind.build(layers, self.options, self.companions)
            if kind.reads_companions
            else kind.build(layers, self.options)
        )
        if missing := [name for name in method.companions if name not in self.companions]:
            raise UsageError(
                f"the method {self.name} needs {', '.join(missing)} beside the store, which is not there",
                hint="the same mettle extract command again writes what it can, also beside a finished store",
            )
        return method
