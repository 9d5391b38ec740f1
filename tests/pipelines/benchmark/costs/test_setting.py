"""Settings of all three tasks: parameters as `mettle params` counts them, samples, and a step on toy backbones."""

from dataclasses import replace

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.costs.published import ENCODERS
from mettle_cache.pipelines.benchmark.costs.setting import find_setting
from mettle_cache.pipelines.benchmark.online import OnlineSource
from mettle_cache.pipelines.report.params import params_table

CPU = torch.device("cpu")
TASK_SETTINGS = ("ave-swin-htsat", "llp-swin-htsat", "avs-ms3-swin-htsat")


@pytest.fixture(scope="module")
def counted():
    return {row["setting"]: row for row in params_table()}


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_are_those_of_mettle_params(counted, name):
    setting = find_setting(name)
    trained, expected = setting.trained(setting.recipe()), counted[name]
    total = trained + setting.frozen
    assert total / 1e6 == pytest.approx(expected["total_m"], abs=5e-4)
    share = 100 * (trained + setting.counted_trainable) / total
    assert share == pytest.approx(expected["trainable_percent"], abs=5e-3)


@pytest.mark.parametrize(
    ("name", "frames", "segments"),
    [("ave-swin-htsat", 10, 10), ("llp-swin-htsat", 10, 10), ("avs-s4-swin-htsat", 5, 1)],
)
def test_samples_have_the_frames_of_their_data_set(name, frames, segments):
    setting = find_setting(name)
    data = setting.data(3)
    assert (setting.frames, data.segments) == (frames, segments)
    assert len(data.clips) * segments == 3 * frames
    assert data.samples["split"].to_pylist() == ["train", "train", "val"]


def test_masks_are_as_many_as_each_part_of_avsbench_has_in_training():
    counts = {
        name: [len(masks) for masks in find_setting(name).data(2).samples["masks"].to_pylist()]
        for name in ("avs-s4-swin-htsat", "avs-ms3-swin-htsat")
    }
    assert counts == {"avs-s4-swin-htsat": [1, 1], "avs-ms3-swin-htsat": [5, 5]}


@pytest.mark.parametrize("name", TASK_SETTINGS)
def test_a_head_of_every_task_takes_a_step_on_tokens_of_backbones(name):
    setting = find_setting(name, tiny=True)
    recipe = setting.recipe()
    if setting.task == "avs":
        # of the pyramid decoder's pictures of 224 x 224, which take half a minute otherwise
        recipe = replace(recipe, head=replace(recipe.head, width=8))
    layers = setting.layers(recipe)
    run = setting.head(recipe, layers, samples=2, device=CPU)
    read = {layer.name for layer in run.task.layers}
    source = OnlineSource(setting.backbones(CPU), segments=setting.frames, names=read, device=CPU)
    (batch,) = source.batches(2, 1)
    assert set(batch.tokens.layers) == read
    assert all(tokens.codes.shape[:2] == (2, setting.frames) for tokens in batch.tokens.layers.values())
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    losses = run.step(batch, epoch=0, index=0)
    assert all(torch.tensor(loss).isfinite() for loss in losses.values())
    assert any(not torch.equal(before[name], parameter) for name, parameter in run.model.named_parameters())
    assert source.seconds > 0
    assert all(not tokens.codes.requires_grad for tokens in batch.tokens.layers.values())


def test_a_setting_without_published_costs_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="--recipe ave-small: the paper prints no costs") as raised:
        find_setting("ave-small")
    assert "ave-swin-htsat" in raised.value.hint
