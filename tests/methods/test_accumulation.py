"""The mean gradient of k micro-batches is that of the batch: for every baseline, and LCD in both readings."""

import pytest
import torch

from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import task_on_layers
from tests.methods.probed import LAYERS, SEGMENTS, clip_tokens

CLIPS = 6
NO_DROPOUT = ("head.dropout=0", "head.input_dropout=0", "head.input_width=16")
# without a method's own width nothing is narrower than the test's largest layer
METHODS = {
    "direct": (),
    "linear": ("linear.dim=none", "linear.norm_visual=true"),
    "layermean": ("layermean.dim=16", "layermean.norm=true"),
    "lcd": ("lcd.dim=16", "lcd.heads=2"),
    "lcd as printed": ("lcd.dim=16", "lcd.heads=2", "lcd.norm=false", "lcd.out_proj=false", "lcd.scale=false"),
}


@pytest.mark.parametrize("pieces", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_add_up_to_the_batch(name, pieces):
    recipe = load_recipe("ave-small", [f"method={name.split()[0]}", *NO_DROPOUT, *METHODS[name]])
    vocabulary = {"categories": ["Bark", "Flute", "Bell"]}
    task = task_on_layers(recipe, LAYERS, vocabulary=vocabulary, segments=SEGMENTS)
    torch.manual_seed(0)
    model = task.build_model().double()
    tokens = clip_tokens("int8", clips=CLIPS)
    labels = torch.randint(0, 4, (CLIPS, SEGMENTS), generator=torch.Generator().manual_seed(1))

    def gradients(rows):
        model.zero_grad()
        for part in rows:
            chosen = {layer: stored.map(lambda t, part=part: t[part]) for layer, stored in tokens.items()}
            loss = sum(task.loss(model, model(chosen), labels[part]).values())
            (loss / len(rows)).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    whole, added = (gradients(torch.arange(CLIPS).chunk(count)) for count in (1, pieces))
    for key, gradient in whole.items():
        torch.testing.assert_close(added[key], gradient, rtol=1e-9, atol=1e-12, msg=key)
    assert any(gradient.abs().sum() > 0 for gradient in whole.values())
