"""What the paper prints about costs: Tables 1 to 4, 15 and 16.

Memory and runtime are of training, a sample: "recorded during the model training process and normalized by batch size"
(section 4.2), "batch size = 1" (caption of Figure 1). Inference (Table 16) is said to be runtime, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

HARDWARE = "NVIDIA A100-SXM4-40GB"
OURS = "Mettle"
SWIN, VIT, SWIN_HTSAT, RESNET = "Swin-V2-L shared", "ViT-L-16 shared", "Swin-V2-L + HTS-AT", "ResNet-152 + VGGish"
PVT, RESNEXT = "PVT-V2 + VGGish", "ResNeXt101"


@dataclass(frozen=True, kw_only=True)
class PublishedCost:
    """One line of a table. Trainable parameters in per cent of ``total_m`` millions, memory in GB, runtime in ms.

    What the paper calls N/A, or does not print, is None.
    """

    table: int
    task: str
    method: str
    encoders: str
    trainable_percent: float | None
    total_m: float | None
    memory_gb: float | None
    runtime_ms: float | None


def _rows(table: int, task: str, encoders: str, *lines: tuple[str | float | None, ...]) -> tuple[PublishedCost, ...]:
    """Lines of ``(method, trainable, total, memory, runtime)``."""
    names = ("method", "trainable_percent", "total_m", "memory_gb", "runtime_ms")
    return tuple(
        PublishedCost(table=table, task=task, encoders=encoders, **dict(zip(names, line, strict=True)))  # type: ignore[arg-type]
        for line in lines
    )


TRAINING = (
    *_rows(
        1,
        "avel",
        RESNET,
        ("AVEL", 2.7, 136.0, None, None),
        ("AVSDN", 5.7, 140.3, None, None),
        ("CMRAN", 10.7, 148.2, None, None),
        ("MM-Pyramid", 25.0, 176.3, None, None),
        ("CMBS", 6.6, 216.7, None, None),
    ),
    *_rows(
        1,
        "avel",
        VIT,
        ("LAVisH", 4.3, 340.1, 19.2, 328.3),
        ("CoPL", 1.5, 332.8, None, None),
        ("AVMoE", 32.6, 483.1, 19.5, 461.5),
        ("MA-AVT", 3.7, 338.4, 7.2, 448.5),
        (OURS, 38.8, 532.2, 1.7, 146.2),
    ),
    *_rows(
        1,
        "avel",
        SWIN,
        ("LAVisH", 2.7, 238.8, 15.4, 322.1),
        ("AVMoE", 39.4, 374.4, 16.8, 500.0),
        ("STG-CMA", 8.9, 214.0, 5.9, 429.5),
        (OURS, 37.2, 364.4, 1.8, 125.4),
    ),
    *_rows(
        1,
        "avel",
        SWIN_HTSAT,
        ("LAVisH", 30.6, 374.9, 11.9, 232.9),
        ("DG-SCT", 43.6, 461.3, 13.1, 316.7),
        ("AVMoE", 34.9, 404.0, 12.1, 256.1),
        (OURS, 23.0, 338.0, 1.5, 88.3),
    ),
    *_rows(2, "avvp", "not said", ("HAN", None, None, None, None), ("MGN", None, None, None, None)),
    *_rows(
        2,
        "avvp",
        SWIN_HTSAT,
        ("DG-SCT", 43.3, 458.9, 8.5, 299.3),
        ("AVMoE", 30.9, 376.4, 12.9, 490.0),
        (OURS, 8.3, 283.5, 0.6, 64.2),
    ),
    *_rows(3, "avs", PVT, ("AVS", 58.7, 174.5, 4.8, 647.0)),
    *_rows(3, "avs", SWIN, ("LAVisH", 14.0, 266.4, 5.9, 222.6), (OURS, 11.1, 257.2, 2.7, 113.2)),
    *_rows(
        3,
        "avs",
        SWIN_HTSAT,
        ("DG-SCT", 61.5, 594.8, 9.0, 330.3),
        ("AVMoE", 54.4, 501.2, 9.5, 427.3),
        (OURS, 21.6, 291.7, 2.9, 105.7),
    ),
    *_rows(
        4,
        "avel",
        SWIN_HTSAT,
        ("LST", None, 347.8, 1.3, 79.0),
        ("UniPT", None, 343.2, 1.3, 83.9),
        ("SHERL", None, 347.7, 1.0, 90.7),
    ),
    *_rows(
        4,
        "avvp",
        SWIN_HTSAT,
        ("LST", None, 286.1, 0.6, 59.0),
        ("UniPT", None, 285.5, 0.6, 61.2),
        ("SHERL", None, 286.0, 0.6, 71.7),
    ),
    *_rows(15, "avel", RESNEXT, (OURS, None, 151.6, 1.0, 41.8)),
    *_rows(15, "avs", RESNEXT, (OURS, None, 151.9, 3.7, 86.7)),
)
"""Tables 1 to 4 and 15. Table 4 repeats Mettle's lines of Tables 1 and 2, which stand here once."""

INFERENCE_MS = {
    "avel": {"DG-SCT": 253.2, "AVMoE": 140.5, OURS: 84.4},
    "avvp": {"DG-SCT": 162.8, "AVMoE": 287.5, OURS: 60.2},
    "avs": {"DG-SCT": 240.7, "AVMoE": 191.6, OURS: 73.7},
}
"""Table 16, which does not name the encoders; all three methods have lines with Swin-V2-L and HTS-AT elsewhere."""

ENCODERS = {
    "ave-swin-htsat": SWIN_HTSAT,
    "ave-swin-shared": SWIN,
    "ave-vit-shared": VIT,
    "ave-resnext-htsat": RESNEXT,
    "llp-swin-htsat": SWIN_HTSAT,
    "avs-s4-swin-htsat": SWIN_HTSAT,
    "avs-s4-swin-shared": SWIN,
    "avs-ms3-swin-htsat": SWIN_HTSAT,
    "avs-ms3-swin-shared": SWIN,
    "avs-ms3-resnext-htsat": RESNEXT,
}
"""The settings, by their recipes: which lines are theirs. Table 3 gives S4 and MS3 the same costs."""

METHODS = {"lcd": OURS, "lst": "LST", "unipt": "UniPT", "sherl": "SHERL"}
"""What the paper calls the methods here, in the order of its tables."""
ADAPTERS = "LAVisH"


def published_costs(setting: str, task: str) -> dict[str, PublishedCost]:
    """The lines of a setting's task and encoders, by method."""
    return {row.method: row for row in TRAINING if (row.task, row.encoders) == (task, ENCODERS[setting])}


def published_inference(setting: str, task: str) -> dict[str, float]:
    """Milliseconds of inference by method; none where the encoders are others than those of Table 16."""
    return INFERENCE_MS[task] if ENCODERS[setting] == SWIN_HTSAT else {}
