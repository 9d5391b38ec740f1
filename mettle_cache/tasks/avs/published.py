"""Rows of Mettle's Tables 3 and 15 that a result of segmentation is set beside."""

from __future__ import annotations

from mettle_cache.tasks.protocol import PublishedRow

_ARCHITECTURES = {
    "swinv2_l": "swinv2_large_window12_192.ms_in22k",
    "resnext101": "resnext101_32x8d.tv_in1k",
}
_COUNTING = (
    "whole checkpoints, HTS-AT counted as trainable though it is frozen here; LCD of three matrices, MTI linears only "
    "where widths differ. No reading fits all three published totals exactly: this one is nearest"
)
_ONE_TOTAL = ". The paper prints one total for both data sets, which is that of S4 with its second visual step"
# the unit that the published decoder builds for a path that its coarsest fusion has not
_UNUSED = 1_180_160


def _row(
    setting: str, visual: str, audio: str, miou: float, total: float, share: float | None, source: str
) -> PublishedRow:
    dataset, test = ("avs-s4", 740) if setting.startswith("avs-s4") else ("avs-ms3", 64)
    return PublishedRow(
        setting=setting,
        dataset=dataset,
        visual=visual,
        audio=audio,
        architectures=(_ARCHITECTURES[visual], audio),
        scores={"miou": miou},
        total_m=total,
        trainable_percent=share,
        source=source,
        test_samples=test,
        counting=_COUNTING + (_ONE_TOTAL if setting == "avs-ms3-swin-htsat" else ""),
        unused=_UNUSED,
        counted_trainable=(audio,) if audio == "htsat" else (),
    )


PUBLISHED = (
    _row("avs-s4-swin-htsat", "swinv2_l", "htsat", 80.7, 291.7, 21.6, "Mettle, Table 3"),
    _row("avs-s4-swin-shared", "swinv2_l", "shared", 79.9, 257.2, 11.1, "Mettle, Table 3"),
    _row("avs-ms3-swin-htsat", "swinv2_l", "htsat", 55.1, 291.7, 21.6, "Mettle, Table 3"),
    _row("avs-ms3-swin-shared", "swinv2_l", "shared", 53.7, 257.2, 11.1, "Mettle, Table 3"),
    _row("avs-ms3-resnext-htsat", "resnext101", "htsat", 48.4, 151.9, None, "Mettle, Table 15"),
)
