"""Training adapters through the backbones: they learn, the backbones stay, and the graph is counted."""

import torch

from mettle_cache.pipelines.benchmark.costs.child import AdaptedSource, weights_of
from mettle_cache.pipelines.benchmark.costs.setting import find_setting

CPU = torch.device("cpu")


def test_a_step_trains_head_and_adapters_and_leaves_the_backbones():
    setting = find_setting("ave-swin-htsat", tiny=True)
    source = AdaptedSource(setting, CPU)
    run = setting.head(setting.adapted_recipe(), source.layers, samples=2, device=CPU)
    run.optimizer.add_param_group({"params": list(source.adapters.parameters())})
    frozen = [weight.clone() for weight in weights_of(source._backbones[0])]
    for index, batch in enumerate(source.batches(2, 2)):
        assert all(tokens.codes.shape[:2] == (2, 10) for tokens in batch.tokens.layers.values())
        assert all(tokens.codes.requires_grad for tokens in batch.tokens.layers.values())
        run.step(batch, epoch=0, index=index)
    gates = [parameter for name, parameter in source.adapters.named_parameters() if name.endswith(".gate")]
    assert len(gates) == 2 * 2 * 6
    assert all(gate != 0 for gate in gates)
    assert all(torch.equal(*pair) for pair in zip(frozen, weights_of(source._backbones[0]), strict=True))
    assert not any(weight.requires_grad for weight in weights_of(source._backbones[0]))
    # more than the tokens of all twelve blocks alone, because attention and MLP keep theirs, too
    assert source.saved > 12 * 20 * 17 * 64 * 4
