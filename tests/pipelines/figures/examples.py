"""Figures of made-up arrays, one of every kind, as full as they get."""

import numpy as np

from mettle_cache.pipelines.figures.attention_map import AttentionRow, draw_attention_maps
from mettle_cache.pipelines.figures.cosine_map import CosineMap, draw_cosine_maps
from mettle_cache.pipelines.figures.data_curve import DataCurve, draw_data_curves
from mettle_cache.pipelines.figures.fusion_weights import FusionWeights, draw_fusion_weights
from mettle_cache.pipelines.figures.layer_similarity import LayerSimilarity, draw_layer_similarity
from mettle_cache.pipelines.figures.learning_curves import LearningCurve, draw_learning_curves
from mettle_cache.pipelines.figures.loss_landscape import LossLandscape, draw_loss_landscapes
from mettle_cache.pipelines.figures.mask_grid import MaskColumn, draw_mask_grid
from mettle_cache.pipelines.figures.mask_sheet import SheetVideo, draw_mask_sheet
from mettle_cache.pipelines.figures.meta_token_map import SegmentMap, draw_meta_token_maps
from mettle_cache.pipelines.figures.question_sheet import AskedQuestion, draw_question_sheet
from mettle_cache.pipelines.figures.timelines import ClipTimeline, EventLane, draw_timelines

LONG = "lcd.k_visual=4,lcd.norm=false,train.learning_rate=0.0004/seed-12"
LAYERS = tuple(
    f"s{stage}b{block:02d}" for stage, blocks in ((1, 2), (2, 2), (3, 18), (4, 2)) for block in range(1, blocks + 1)
)
CATEGORIES = tuple(f"Category {number}, spelt out" for number in range(30))
RNG = np.random.default_rng(0)


def landscapes():
    steps = np.linspace(-1, 1, 11)
    bowl = 0.3 + 4 * (steps[:, None] ** 2 + 0.5 * steps[None] ** 2)
    ripples = 0.4 + np.abs(np.sin(5 * steps[:, None]) * np.cos(4 * steps[None])) + bowl
    return draw_loss_landscapes(
        [
            LossLandscape(label=label, steps=steps, losses=losses)
            for label, losses in (("k1", bowl), (LONG, ripples), ("k8", ripples * 9))
        ]
    )


def meta_token_maps():
    classes = RNG.integers(-1, 30, 400)
    centres = RNG.normal(0, 20, (31, 2))
    maps = [
        SegmentMap(
            title=f"{modality}: {label}",
            points=centres[classes] + RNG.normal(0, width, (400, 2)),
            classes=classes,
            silhouette=0.1,
        )
        for modality in ("visual", "audio")
        for label, width in (("frozen tokens, mean", 9), ("k1", 2))
    ]
    return draw_meta_token_maps(maps, CATEGORIES, perplexity=30)


def timelines():
    def lane(label):
        predicted = RNG.random((2, 10)) > 0.5
        return EventLane(label, RNG.random(10) > 0.5, tuple(predicted), (RNG.random(10), None))

    clips = [
        ClipTimeline(
            "best, 100 %: a-clip-with-a-rather-long-name-000",
            (lane("audio: Speech"), lane("visual: Speech")),
        ),
        ClipTimeline("median, 50 %: b", tuple(lane("audio: Acoustic_guitar") for _ in range(5)), left_out=2),
        ClipTimeline("worst, 0 %: c", ()),
    ]
    return draw_timelines(clips, ["k1", LONG], rule="clips: k1's by segment type av", numbers=True)


def mask_grid():
    grid = np.stack(np.mgrid[:28, :28])

    def column(number):
        truth = ((grid - 14) ** 2).sum(0) < 60 + 10 * number
        predicted = tuple(((grid - 11 - shift) ** 2).sum(0) < 60 for shift in (1, 4))
        picture = None if number == 2 else RNG.integers(0, 255, (45, 60, 3)).astype(np.uint8)
        return MaskColumn(
            title=f"dog_barking/clip-{number}", picture=picture, truth=truth, predicted=predicted, ious=(71.2, 100.0)
        )

    return draw_mask_grid([column(number) for number in range(5)], ["lcd", LONG])


def mask_sheet():
    grid = np.stack(np.mgrid[:28, :28])

    def video(number, frames):
        masks = [((grid - shift) ** 2).sum(0)[None] < 60 for shift in (11, 14)]
        truth, predicted = (np.repeat(mask, frames, axis=0) for mask in masks)
        pictures = (None,) * frames if number else tuple(RNG.integers(0, 255, (frames, 45, 60, 3)).astype(np.uint8))
        title = "dog_barking/a-rather-long-name-00…, 100 %"
        return SheetVideo(title=title, pictures=pictures, truth=truth, predicted=predicted, ious=(100.0,) * frames)

    rule = "a-store-of-some-name test: 8 of 1200 samples, from best to worst by miou; the frames are not at hand"
    return draw_mask_sheet([video(number, frames) for number, frames in enumerate((5, 1, 7))], rule=rule)


def question_sheet():
    def question(number):
        answers = tuple((f"a_long_answer_{place}", probability) for place, probability in enumerate((1.0, 0.4, 0.1, 0)))
        return AskedQuestion(
            title=f"video-{number:08d}, Audio-Visual Comparative",
            question="Is the violin on the left more rhythmic than the electric_bass on the right of the whole video",
            answers=answers[: 4 - number],
            right=answers[1][0] if number else "accordion_of_the_left_hand",
            picture=RNG.integers(0, 255, (45, 60, 3)).astype(np.uint8) if number == 1 else None,
        )

    rule = "music-avqa test: 8 of 9185 samples, from best to worst by accuracy; the frames are not at hand"
    return draw_question_sheet([question(number) for number in range(3)], rule=rule)


def attention_maps():
    rows = [
        AttentionRow(
            title=f"a-clip-of-some-name-{number}",
            picture=None if number == 2 else RNG.integers(0, 255, (45, 60, 3)).astype(np.uint8),
            maps=tuple(RNG.dirichlet(np.ones(side * side)).reshape(side, side) for side in (48, 24, 12, 6)),
        )
        for number in range(3)
    ]
    return draw_attention_maps(rows, ("s1b02", "s2b02", "s3b18", "s4b02"))


def cosine_maps():
    vectors = RNG.normal(size=(len(LAYERS), 8)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return draw_cosine_maps(
        [CosineMap(title=f"{name}: {LONG}", names=LAYERS, cosines=vectors @ vectors.T) for name in ("visual", "audio")]
    )


def fusion_weights():
    return draw_fusion_weights(
        [
            FusionWeights(title=f"{name}: {LONG}", names=LAYERS, weights=RNG.dirichlet(np.ones(24), 50))
            for name in ("visual", "audio")
        ]
    )


def layer_similarity():
    mean = np.linspace(0.7, 0.97, 24)
    mean[[0, 2, 4, 22]] = np.nan
    return draw_layer_similarity(
        [
            LayerSimilarity(label=name, layers=LAYERS, mean=mean - off, low=mean - off - 0.2, high=mean - off + 0.02)
            for name, off in (("visual", 0), ("audio", 0.2))
        ]
    )


def learning_curves():
    epochs = np.arange(1, 21)
    curves = [
        LearningCurve(label=label, loss=2 / (epochs + n), score=80 - 60 / (epochs + n), best=20 - n)
        for n, label in enumerate(("k1", "k4", LONG, "linear", "seed-1", "seed-2", "seed-3", "seed-4"))
    ]
    return draw_learning_curves(curves, score_label="val accuracy (%)")


def data_curves():
    clips = np.array([28, 56, 112, 224, 420, 450])
    curves = [
        DataCurve(label=label, clips=clips, score=score, low=score - 4, high=score + 3)
        for label, score in (("LCD", 80 - 400 / clips), ("linear probe", 74 - 300 / clips), (LONG, 70 - 200 / clips))
    ]
    return draw_data_curves(
        curves,
        score_label="test accuracy (%)",
        interval="95 % over 5 seeds",
        floor=34.0,
        floor_label="always background",
    )


FIGURES = {
    function.__name__: function
    for function in (
        attention_maps,
        cosine_maps,
        data_curves,
        fusion_weights,
        landscapes,
        layer_similarity,
        learning_curves,
        mask_grid,
        mask_sheet,
        meta_token_maps,
        question_sheet,
        timelines,
    )
}
