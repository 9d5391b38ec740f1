"""The segmentation task on samples and outputs made by hand."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mettle_cache.errors import DatasetError, RunError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avs import frame_iou
from mettle_cache.tasks.avs.model import AvsHeadOptions
from mettle_cache.tasks.avs.task import AvsTask
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import KLT_FORMS
from tests.methods.conftest import make_tokens as make_klt

SIDE = 224
FRAMES = 5


def layer(modality, stage, side, width):
    return LayerSpec(modality=modality, stage=stage, block=1, grid=(side, side), tokens=side * side, width=width)


VISUAL = tuple(layer("visual", n, side, 8 * n) for n, side in ((1, 8), (2, 4), (3, 2), (4, 1)))
AUDIO = tuple(layer("audio", n, side, 4 * n) for n, side in ((1, 4), (2, 3), (3, 2), (4, 2)))
LAYERS = (*VISUAL, AUDIO[-1])
METHOD = MethodChoice("lcd", LCDOptions(dim="none", heads=4, norm=False))


def mask(number):
    pixels = np.zeros((SIDE, SIDE), bool)
    if number % 3:
        pixels[: 20 + number, 10:60] = True
    return pixels


def make_samples(frames=(1, FRAMES, FRAMES), masks=None):
    """A video a row, the first of them for training; masks are numbered through."""
    masks = masks or (1, *frames[1:])
    numbers = iter(range(100))
    return pa.table(
        {
            "row": [7 + n for n in range(len(frames))],
            "clip": [f"v{n}" for n in range(len(frames))],
            "split": ["train", *["test"] * (len(frames) - 1)],
            "clips": [[f"v{n}_{k}" for k in range(1, count + 1)] for n, count in enumerate(frames)],
            "masks": [[np.packbits(mask(next(numbers))).tobytes() for _ in range(count)] for count in masks],
        },
        schema=AvsTask.sample_schema,
    )


def make_task(layers=LAYERS, samples=None, method=METHOD, **options):
    return AvsTask(
        layers,
        samples=make_samples() if samples is None else samples,
        vocabulary={},
        segments=1,
        method=method,
        options=AvsHeadOptions(**{"width": 8, **options}),
    )


def make_tokens(videos, frames, layers=LAYERS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: LayerTokens(torch.randn(videos, frames, spec.tokens, spec.width, generator=generator), FLOATS)
        for spec in layers
    }


@pytest.mark.parametrize(
    ("meta_tokens", "options"),
    [
        (1, {}),
        (2, {"softmax_over": "positions"}),
        (2, {"lateral": "dilated", "matching": "kl", "lcd_levels": (3, 4)}),
        (1, {"tpavi": True, "mti": False}),
    ],
)
@pytest.mark.parametrize("form", KLT_FORMS)
def test_klt_codes_give_what_their_floats_give(form, meta_tokens, options):
    """Masks and every gradient, in float64: cells, where a grid has even sides, and meta-tokens of raw tokens."""
    method = MethodChoice(
        "lcd", LCDOptions(dim="none", heads=4, norm=False, k_visual=meta_tokens, k_audio=meta_tokens, steps_visual=2)
    )
    layers, samples = (*VISUAL, *AUDIO[-2:]), make_samples((FRAMES, FRAMES))
    model = make_task(layers, samples, method, **options).build_model().double()
    frames = {spec.name: make_klt(form, 2, spec.tokens, spec.width) for spec in layers}
    codes = {name: tokens.map(lambda part: part.unflatten(0, (1, 2))) for name, tokens in frames.items()}
    floats = {name: LayerTokens(tokens.floats(torch.float64), FLOATS) for name, tokens in codes.items()}
    results = []
    for tokens in (codes, floats):
        model.zero_grad()
        outputs = model(tokens)
        (outputs["logits"].square().mean() + outputs.get("matching", torch.zeros(1)).sum()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((outputs["logits"].detach(), *gradients))
    assert len(results[0]) == len(results[1]) > 20
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).abs().max() <= 1e-11 * max(1.0, plain.abs().max().item())


def test_targets_are_the_masks_of_the_samples():
    targets = make_task().targets([2, 1])
    assert (targets.shape, targets.dtype) == ((2, FRAMES, SIDE, SIDE), torch.bool)
    assert np.array_equal(targets[1].numpy(), [mask(n) for n in range(1, 6)])
    assert np.array_equal(targets[0].numpy(), [mask(n) for n in range(6, 11)])


def test_the_loss_is_the_cross_entropy_of_probabilities_on_the_first_frame_in_s4_training():
    task = make_task(samples=make_samples(frames=(5, 5)), tpavi=False)
    logits = torch.randn(1, FRAMES, SIDE, SIDE, requires_grad=True)
    terms = task.loss(task.build_model(), {"logits": logits}, task.targets([0]))
    wanted, p = torch.from_numpy(mask(0)), logits[0, 0].sigmoid().double()
    expected = -torch.where(wanted, p.log(), (1 - p).log()).mean()
    assert list(terms) == ["mask"]
    assert terms["mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(terms["mask"], logits)
    assert gradient[0, 0].abs().min() > 0
    assert not gradient[0, 1:].any()


def test_predictions_give_the_same_scores_in_any_batches():
    task, rows = make_task(samples=make_samples((1, 5, 5, 5), (1, 5, 5, 5))), [1, 2, 3]
    logits = torch.randn(3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    whole = task.predict({"logits": logits}, rows)
    parts = [task.predict({"logits": logits[n : n + 1]}, [row]) for n, row in enumerate(rows)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    assert all(np.array_equal(whole[name], joined[name]) for name in whole)
    scores = task.score(whole, rows)
    assert scores == task.score(joined, rows)
    expected = 100 * frame_iou((logits.sigmoid() > 0.5).numpy(), task.targets(rows).numpy()).mean()
    assert scores["miou"] == pytest.approx(expected)
    assert sum(array.nbytes for array in whole.values()) < 15 * 10_000


def test_the_truth_scores_100_in_both_metrics():
    task, rows = make_task(), [1, 2]
    logits = torch.where(task.targets(rows), 30.0, -30.0)
    assert task.score(task.predict({"logits": logits}, rows), rows) == pytest.approx(
        {"miou": 100, "f_measure": 100, "f_measure_global": 100}
    )


def test_floors_details_and_the_table():
    task, rows = make_task(), [1, 2]
    wanted = task.targets(rows).numpy()
    share = wanted.mean((-2, -1))
    assert task.floors(rows) == pytest.approx(
        {"all foreground": 100 * share.mean(), "all background": 100 * (share == 0).mean()}
    )
    logits = torch.ones(2, FRAMES, SIDE, SIDE)
    predictions = task.predict({"logits": logits}, rows)
    details = task.details(predictions, rows)
    assert (details["frames"], details["frames_without_foreground"], details["f_measure_group"]) == (10, 3, 4)
    assert details["miou_without_foreground"] == 0
    table = task.prediction_table(predictions, rows)
    assert table["row"].to_pylist() == [8] * 5 + [9] * 5
    assert table["frame"].to_pylist() == [1, 2, 3, 4, 5] * 2
    assert table["predicted_pixels"].to_pylist() == [SIDE * SIDE] * 10
    assert table["target_pixels"].to_pylist() == wanted.sum((-2, -1)).reshape(-1).tolist()
    np.testing.assert_allclose(table["iou"].to_pylist(), share.reshape(-1), atol=1e-9)
    np.testing.assert_allclose(table["confidence"].to_pylist(), 1 / (1 + np.exp(-1)), rtol=1e-6)
    assert table["mask"].to_pylist() == [f"masks/v{video}_{k}.png" for video in (1, 2) for k in range(1, 6)]


def test_confidence_is_that_of_the_foreground_alone():
    task, rows = make_task(), [1, 2]
    logits = torch.full((2, FRAMES, SIDE, SIDE), -3.0)
    logits[0, 1, 0, :3] = torch.tensor([1.0, 2.0, 0.0])
    interpreted = task.interpret({"logits": logits})
    assert interpreted["masks"].sum() == 2
    np.testing.assert_allclose(interpreted["probabilities"], 1 / (1 + np.exp(-logits.double().numpy())), rtol=1e-6)
    confidence = task.prediction_table(task.predict({"logits": logits}, rows), rows)["confidence"].to_pylist()
    assert confidence[1] == pytest.approx((1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(-2))) / 2)
    assert confidence[:1] + confidence[2:] == [None] * 9


def test_artefacts_are_a_mask_a_frame_where_the_table_says():
    task, rows = make_task(), [1, 2]
    predictions = task.predict({"logits": torch.where(task.targets(rows), 9.0, -9.0)}, rows)
    files = dict(task.artefacts(predictions, rows, None))
    assert list(files) == task.prediction_table(predictions, rows)["mask"].to_pylist()
    for number, content in enumerate(files.values(), start=1):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), mask(number).astype(np.uint8) * 255)


@pytest.mark.parametrize("frames", [1, FRAMES])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mti": False},
        {"cross": False},
        {"intra": False},
        {"order": "intra_first", "softmax_over": "positions", "inject_into": (2, 3)},
        {"lateral": "dilated", "identity": False, "out_proj": True},
        {"tpavi": True},
        {"mti": False, "tpavi": True, "matching": "kl"},
        {"matching": "kl", "shared_steps": True},
    ],
)
def test_every_head_trains_all_its_parameters(frames, options):
    task = make_task(samples=make_samples((frames, frames), (1, 1)), **options)
    torch.manual_seed(0)
    model = task.build_model()
    outputs = model(make_tokens(2, frames))
    assert outputs["logits"].shape == (2, frames, SIDE, SIDE)
    terms = task.loss(model, outputs, task.targets([0, 1]))
    assert set(terms) == ({"mask", "matching"} if options.get("matching") else {"mask"})
    sum(terms.values()).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_frames_of_a_video_do_not_mix():
    task = make_task()
    torch.manual_seed(0)
    model, tokens = task.build_model().double().eval(), make_tokens(1, FRAMES)
    exact = {name: LayerTokens(layer.codes.double(), FLOATS) for name, layer in tokens.items()}
    together = model(exact)["logits"]
    alone = model({name: LayerTokens(layer.codes[:, 3:4], FLOATS) for name, layer in exact.items()})["logits"]
    torch.testing.assert_close(alone[:, 0], together[:, 3])


def test_the_matching_term_is_weighted_and_summed_over_frames():
    task = make_task(matching="kl", matching_weight=0.25)
    outputs = {"logits": torch.zeros(1, FRAMES, SIDE, SIDE), "matching": torch.arange(5.0)[None]}
    assert task.loss(task.build_model(), outputs, task.targets([1]))["matching"].item() == 2.5


def test_linear_probing_injects_the_mean_projected_token():
    task = make_task(method=MethodChoice("linear", LinearOptions(dim="none")))
    model, tokens = task.build_model(), make_tokens(1, 1)
    last = tokens[VISUAL[-1].name].codes
    probe = model.visual.sources[0].probe.linear
    torch.testing.assert_close(model.visual(tokens), probe(last).mean(-2, keepdim=True))
    assert model.audio(tokens).shape == (1, 1, 1, VISUAL[-1].width)


def test_linear_probing_keeps_its_norms_and_starts_as_the_identity_where_that_fits():
    options = LinearOptions(dim="none", init="identity", norm_visual=True)
    model, tokens = make_task(method=MethodChoice("linear", options)).build_model(), make_tokens(1, 1)
    last = tokens[VISUAL[-1].name].codes
    normed = torch.nn.functional.layer_norm(last, last.shape[-1:]).mean(-2, keepdim=True)
    torch.testing.assert_close(model.visual(tokens), normed)
    assert [model.visual.sources[0].probe.norm, model.audio.sources[0].probe.norm] == [True, False]


def test_only_layers_that_are_read_are_asked_for():
    everything = (*VISUAL, *AUDIO)
    assert make_task(everything).layers == LAYERS
    assert make_task(everything, mti=False).layers == VISUAL
    assert make_task(everything, mti=False, tpavi=True, samples=make_samples((5, 5))).layers == LAYERS
    assert make_task(everything, lcd_levels=(2, 4)).layers == (*VISUAL, AUDIO[1], AUDIO[3])


def test_meta_tokens_of_several_levels_are_injected_together():
    task = make_task((*VISUAL, *AUDIO), lcd_levels=(1, 4))
    model = task.build_model()
    tokens = make_tokens(1, 1, (*VISUAL, *AUDIO))
    assert model.visual(tokens).shape == model.audio(tokens).shape == (1, 1, 2, VISUAL[-1].width)
    assert [source.layer for source in model.audio.sources] == [AUDIO[0], AUDIO[3]]
    assert [type(align).__name__ for align in model.visual.aligns] == ["Linear", "Identity"]
    model(tokens)["logits"].sum().backward()


def test_a_vit_s_class_tokens_serve_lcd_and_not_the_masks():
    flat = tuple(
        LayerSpec(modality="visual", stage=1, block=block, grid=(4, 4), tokens=17, width=8) for block in (3, 6, 9, 12)
    )
    task = make_task((*flat, AUDIO[-1]))
    assert task.layers == (*flat, AUDIO[-1])
    assert task.build_model()(make_tokens(1, 1, task.layers))["logits"].shape == (1, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ((*VISUAL[1:], AUDIO[-1]), {}, r"the FPN reads 4 stages of the visual backbone, not 3\n  next: extract"),
        (VISUAL, {}, "the head reads the sound of level 4, and 0 audio layers are selected"),
        (LAYERS, {"lcd_levels": (3, 4)}, "the head reads the sound of level 3, and 1 audio layers are selected"),
        (LAYERS, {"tpavi": True}, r"hold 1 or 5 of them\n  next: extract with --option train_frames=5"),
    ],
)
def test_what_the_store_lacks_is_said(layers, options, message):
    with pytest.raises(UsageError, match=message):
        make_task(layers, **options).build_model()


@pytest.mark.parametrize(
    ("lcd", "message"),
    [
        ({"norm": True}, "neither norm nor residual\n.*set lcd.norm = false"),
        ({"norm": False, "residual": True}, "neither norm nor residual"),
        ({"norm": False, "k_visual": (1, 1)}, "segmentation has one number of meta-tokens a modality"),
    ],
)
def test_lcd_options_that_segmentation_has_not(lcd, message):
    with pytest.raises(UsageError, match=message):
        make_task(method=MethodChoice("lcd", LCDOptions(**{"heads": 4, **lcd}))).build_model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross": False, "intra": False}, "inject nothing: set mti = false"),
        ({"lcd_levels": (4, 4)}, "lcd_levels must name at least one level, each once"),
        ({"lcd_levels": ()}, "lcd_levels must name at least one level, each once"),
        ({"inject_into": ()}, "inject_into must name at least one level, each once"),
        ({"matching": "kl", "cross": False}, "it needs mti with cross, or tpavi"),
    ],
)
def test_head_options_that_exclude_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        AvsHeadOptions(**options)


def test_a_method_that_gives_one_vector_a_segment_is_refused_and_not_replaced():
    expected = r"injects each meta-token by itself, so it takes lcd or linear.*, not 'mean'\n.*installed: lcd, linear"
    with pytest.raises(UsageError, match=expected):
        make_task(method=MethodChoice("mean", LCDOptions())).build_model()


def test_masks_of_another_size_in_a_store_are_refused():
    samples = make_samples().set_column(4, "masks", pa.array([[b"x"], [b"y"] * 5, [b"z"] * 5]))
    with pytest.raises(DatasetError, match=r"sample 7: a mask is not 224 x 224 packed bits \(6272 bytes\)"):
        make_task(samples=samples)


def test_a_diverged_model_is_an_error():
    task = make_task()
    with pytest.raises(RunError, match="logits hold values that are not finite"):
        task.predict({"logits": torch.full((1, FRAMES, SIDE, SIDE), torch.nan)}, [1])


def test_scores_of_videos_average_to_the_metric_and_changes_count_pixels():
    task = make_task()
    ours, others = (
        task.predict({"logits": torch.randn(2, FRAMES, SIDE, SIDE, generator=torch.manual_seed(n))}, [1, 2])
        for n in range(2)
    )
    scores = task.sample_scores(ours, [1, 2])
    assert scores.mean() == pytest.approx(task.score(ours, [1, 2])["miou"])
    assert scores == pytest.approx(100 * ours["iou"].mean(1))
    pixels = [np.unpackbits(one["masks"], axis=-1) for one in (ours, others)]
    assert task.changed_share(ours, others) == pytest.approx((pixels[0] != pixels[1]).mean())
