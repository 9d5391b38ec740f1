"""How methods other than LCD feed the masks: their meta-tokens, the stages alone, or sums of a stage's layers."""

from dataclasses import replace

import pytest
import torch

from mettle_cache.errors import OptionsError, UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.methods.direct import DirectOptions
from mettle_cache.methods.layermean import LayerMeanOptions
from mettle_cache.methods.molt import MoLTOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.tasks.avs.model import FEEDS
from mettle_cache.tasks.avs.task import AvsTask
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import make_tokens as make_coded
from tests.methods.injection import inject
from tests.tasks.avs.test_task import AUDIO, FRAMES, SIDE, VISUAL, make_samples, make_task, make_tokens

TWO = tuple(replace(VISUAL[place], block=block) for place in (2, 3) for block in (1, 2))
DEEP = (*VISUAL[:2], *TWO, *AUDIO)
"""Two blocks in each of the last two visual stages."""
MOLT = MethodChoice("molt", MoLTOptions(dim=8, late=2, k=3, reduction=4))
DIRECT, LAYERMEAN = MethodChoice("direct", DirectOptions()), MethodChoice("layermean", LayerMeanOptions())


def assert_trains(task, frames=1):
    torch.manual_seed(0)
    model = task.build_model()
    tokens = make_tokens(2, frames, task.layers)
    outputs = model(tokens)
    assert outputs["logits"].shape == (2, frames, SIDE, SIDE)
    terms = task.loss(model, outputs, task.targets([0, 1]))
    sum([*terms.values(), *(value for name, value in outputs.items() if name.startswith("auxiliary_"))]).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    return model, outputs


def test_every_method_that_the_task_takes_says_how_it_feeds():
    assert AvsTask.methods == tuple(FEEDS) == ("lcd", "linear", "molt", "direct", "layermean")


def test_molt_reads_its_late_layers_beside_the_pyramid():
    task = make_task(DEEP, method=MOLT)
    assert [layer.name for layer in task.layers] == [
        "visual/s1b01", "visual/s2b01", "visual/s3b02", "visual/s4b01", "visual/s4b02", "audio/s3b01", "audio/s4b01",
    ]  # fmt: skip
    # a checkpoint is built again on the layers that it reads
    assert make_task(task.layers, method=MOLT).layers == task.layers
    assert make_task(DEEP, method=MOLT, mti=False).layers == (*VISUAL[:2], TWO[1], TWO[3])
    heard = make_task((*DEEP[:6], *AUDIO), method=MOLT, tpavi=True, samples=make_samples((FRAMES, FRAMES)))
    assert AUDIO[-1] in heard.layers


@pytest.mark.parametrize("options", [{}, {"softmax_over": "positions", "order": "intra_first", "matching": "kl"}])
def test_molt_s_tokens_are_injected_one_by_one_and_its_regulariser_is_an_output(options):
    task = make_task(DEEP, samples=make_samples((1, 1), (1, 1)), method=MOLT, **options)
    model, outputs = assert_trains(task)
    assert outputs["auxiliary_orthogonality"] > 0
    model = model.double()
    tokens = {name: LayerTokens(t.codes.double(), FLOATS) for name, t in make_tokens(1, 2, task.layers).items()}
    given = model.method.separate(tokens)
    assert given.visual.shape == given.audio.shape == (1, 2, 3, 8)
    stages = []
    for place, stage in enumerate(model.stages, start=1):
        whole = tokens[stage.name].codes.flatten(0, 1)
        steps = [("cross", given.audio), ("intra", given.visual)]
        for source, meta_tokens in reversed(steps) if "order" in options else steps:
            aligned = model.mti.linears[f"{source}{place}"](meta_tokens.flatten(0, 1))
            whole = inject(whole, aligned, softmax_over=options.get("softmax_over", "meta_tokens"))
        stages.append(Plain(whole))
    torch.testing.assert_close(model(tokens)["logits"].flatten(0, 1), model.fpn(stages), rtol=1e-10, atol=1e-10)


class Plain:
    def __init__(self, tokens):
        self.tokens = tokens

    def project(self, linear):
        return linear(self.tokens)


def test_direct_is_the_stages_alone():
    task = make_task(DEEP, method=DIRECT)
    assert task.layers == (*VISUAL[:2], TWO[1], TWO[3])
    model, _ = assert_trains(make_task(DEEP, samples=make_samples((1, 1), (1, 1)), method=DIRECT))
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"fpn"}
    lcd = make_task(mti=False).build_model()
    assert {name: p.shape for name, p in lcd.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize("form", ["int8", "klt"])
def test_a_level_of_layermean_is_the_weighted_sum_of_its_stage_s_layers(form):
    task = make_task(DEEP, samples=make_samples((1, 1), (1, 1)), method=LAYERMEAN)
    assert task.layers == DEEP[:6]
    model, _ = assert_trains(task)
    model = model.double()
    with torch.no_grad():
        for parameter in model.mix.parameters():
            parameter.copy_(torch.randn_like(parameter))
    frames = {spec.name: make_coded(form, 2, spec.tokens, spec.width, seed=n) for n, spec in enumerate(task.layers)}
    tokens = {name: coded.map(lambda part: part.unflatten(0, (1, 2))) for name, coded in frames.items()}
    stages = []
    for names, scores, scale in zip(
        (["s1b01"], ["s2b01"], ["s3b01", "s3b02"], ["s4b01", "s4b02"]), model.mix.scores, model.mix.scales, strict=True
    ):
        layers = torch.stack([frames[f"visual/{name}"].floats(torch.float64) for name in names])
        stages.append(Plain(scale * (scores.softmax(0)[:, None, None, None] * layers).sum(0)))
    expected = model.fpn(stages)
    model.zero_grad()
    expected.square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    logits = model(tokens)["logits"].flatten(0, 1)
    logits.square().mean().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for ours, plain in zip(model.parameters(), gradients, strict=True):
        assert (ours.grad - plain).abs().max() <= 1e-9 * max(1.0, plain.abs().max().item())


def test_one_layer_a_stage_is_direct_with_a_scale():
    task = make_task((*VISUAL, *AUDIO), method=LAYERMEAN)
    model, direct = task.build_model(), make_task(method=DIRECT).build_model()
    direct.fpn.load_state_dict(model.fpn.state_dict())
    tokens = make_tokens(1, 1, VISUAL)
    torch.testing.assert_close(model(tokens)["logits"], direct(tokens)["logits"])
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in direct.parameters()) + 8


def test_a_flat_backbone_s_stages_are_its_quarters_whatever_else_is_selected():
    flat = tuple(
        LayerSpec(modality="visual", stage=1, block=block, grid=(4, 4), tokens=17, width=8) for block in range(1, 9)
    )
    assert make_task((*flat, *AUDIO), method=LAYERMEAN).layers == flat
    chosen = select_layers((*flat, *AUDIO), "visual/pyramid,visual/last:3,audio/last:3")
    task = make_task(chosen, method=MethodChoice("molt", MoLTOptions(dim=8, late=3, reduction=4)))
    assert [layer.block for layer in task.visual] == [2, 4, 6, 8]
    assert [layer.block for layer in task.layers] == [2, 4, 6, 7, 8, 1, 1, 1]


@pytest.mark.parametrize("method", [DIRECT, LAYERMEAN])
def test_a_matching_term_needs_something_that_hears(method):
    with pytest.raises(
        OptionsError, match="matching = 'kl' compares with the sound: it needs mti with cross, or tpavi"
    ):
        make_task(DEEP, method=method, matching="kl")


def test_the_layers_that_molt_lacks_are_said_with_those_of_the_masks():
    message = (
        r"MoLT reads the last 6 visual layers, and 4 are selected\n  next: .*visual/last:6,audio/last:6.* stores; or "
        r"set molt.late to 4 or less. The masks want visual/pyramid beside them"
    )
    with pytest.raises(UsageError, match=message):
        make_task((*VISUAL, *AUDIO), method=MethodChoice("molt", MoLTOptions()))


@pytest.mark.parametrize("method", ["direct", "layermean", "linear"])
def test_a_recipe_takes_the_method_by_its_name(method):
    recipe = load_recipe("avs-s4-small", [f"method={method}", "head.width=8"])
    task = make_task((*VISUAL, AUDIO[-1]), method=recipe.method_choice())
    assert task.build_model()(make_tokens(1, 1, task.layers))["logits"].shape == (1, 1, SIDE, SIDE)
