"""Frozen trunks: taps, digests, and random weights from a seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
import torch
from torch import nn

from mettle_cache.backbones import create_backbone, shared_audio
from mettle_cache.backbones.trunk import FrozenTrunk, flatten_tokens, weights_digest
from mettle_cache.errors import UsageError


def backbone_and_batch(name="test_vit2", count=3, **options):
    backbone = create_backbone(name, weights="random", seed=5, **options)
    generator = torch.Generator().manual_seed(2)
    return backbone, torch.randn((count, *backbone.segment_shape), generator=generator)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["test_vit2", "test_resnet", "test_efficientnet"])
def test_the_same_input_gives_the_same_bits(name):
    backbone, x = backbone_and_batch(name)
    assert same(backbone.forward_tokens(x), backbone.forward_tokens(x.clone()))


def test_a_parent_cannot_switch_it_to_training():
    backbone, x = backbone_and_batch("test_resnet")
    before = backbone.forward_tokens(x)
    parent = nn.ModuleList([backbone.trunk])
    parent.train()
    assert parent.training
    assert not any(module.training for module in backbone.trunk.modules())
    assert same(before, backbone.forward_tokens(x))
    assert same(before, backbone.forward_tokens(x))  # batch statistics would have moved


def test_no_gradient_is_possible():
    backbone, x = backbone_and_batch()
    assert not any(parameter.requires_grad for parameter in backbone.trunk.parameters())
    with torch.enable_grad():
        tokens = backbone.forward_tokens(x.requires_grad_())
    assert all(token.is_inference() and not token.requires_grad for token in tokens.values())
    with pytest.raises(RuntimeError, match="does not require grad"):
        next(iter(tokens.values())).clone().sum().backward()


def test_hooks_keep_nothing_outside_a_pass():
    backbone, x = backbone_and_batch()
    before = backbone.forward_tokens(x)
    with pytest.raises(UsageError):
        backbone.forward_tokens(x[:, :1])
    with torch.inference_mode():
        backbone.trunk.network(-x)
    assert backbone.trunk._pass.tokens is None
    assert same(before, backbone.forward_tokens(x))


def test_two_threads_on_one_trunk_do_not_mix_their_tokens():
    """The shared mode has two backbones around one module."""
    visual, x = backbone_and_batch()
    audio = shared_audio(visual)
    alone = visual.forward_tokens(x), audio.forward_tokens(-x)
    results: dict[str, list] = {"visual": [], "audio": []}

    def work(backbone, batch):
        for _ in range(5):
            results[backbone.modality].append(backbone.forward_tokens(batch))

    threads = [threading.Thread(target=work, args=pair) for pair in ((visual, x), (audio, -x))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results["visual"]) == len(results["audio"]) == 5
    assert all(same(alone[0], tokens) for tokens in results["visual"])
    assert all(same(alone[1], tokens) for tokens in results["audio"])


@pytest.mark.slow
def test_the_number_of_threads_does_not_change_the_bits():
    """In a process of its own, for the order of MKL's sums is settled before its first product."""
    code = """if True:
        import torch
        from mettle_cache.backbones import create_backbone
        backbone = create_backbone("swinv2_tiny_window8_256", weights="random", seed=5)
        x = torch.linspace(-1, 1, 3 * 256 * 256).sin().view(1, 3, 256, 256)
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(backbone.forward_tokens(x))
        raise SystemExit(not all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0]))
    """
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("name", ["test_vit2", "test_resnet", "test_efficientnet"])
def test_a_batch_in_two_halves_differs_by_rounding_at_most(name):
    backbone, x = backbone_and_batch(name, count=10)
    whole = backbone.forward_tokens(x)
    halves = [backbone.forward_tokens(half) for half in x.chunk(2)]
    for layer, tokens in whole.items():
        joined = torch.cat([half[layer] for half in halves])
        assert (tokens - joined).abs().max() <= 1e-5 * tokens.abs().max()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_recorded_and_still_float32_outside(precision):
    exact, x = backbone_and_batch()
    half, _ = backbone_and_batch(precision=precision)
    expected, tokens = exact.forward_tokens(x), half.forward_tokens(x)
    for layer, token in tokens.items():
        assert token.dtype == torch.float32
        error = (token - expected[layer]).abs().max() / expected[layer].abs().max()
        assert 0 < error < (0.03 if precision == "bfloat16" else 0.004)
    assert half.fingerprint()["precision"] == precision
    assert half.fingerprint() != exact.fingerprint()
    assert same(tokens, half.forward_tokens(x))


def test_float16_that_overflows_is_an_error_not_a_number():
    backbone, x = backbone_and_batch(precision="float16")
    with torch.no_grad():
        backbone.trunk.network.blocks[2].mlp.fc2.bias.fill_(1e6)
    with pytest.raises(UsageError, match="float16 overflows in this backbone"):
        backbone.forward_tokens(x)


def test_a_callers_autocast_does_not_reach_a_float32_trunk():
    backbone, x = backbone_and_batch()
    expected = backbone.forward_tokens(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(expected, backbone.forward_tokens(x))


def test_the_fingerprint_is_json_and_names_the_weights():
    first, _ = backbone_and_batch()
    again, _ = backbone_and_batch()
    other = create_backbone("test_vit2", weights="random", seed=6)
    assert json.loads(json.dumps(first.fingerprint())) == first.fingerprint() == again.fingerprint()
    assert first.fingerprint()["weights"] == {"kind": "random", "seed": 5, "digest": first.trunk.digest}
    assert other.trunk.digest != first.trunk.digest
    assert set(first.fingerprint()["versions"]) == {"timm", "torch"}


def test_antialiasing_is_in_the_fingerprint():
    plain, _ = backbone_and_batch()
    smooth, _ = backbone_and_batch(antialias=True)
    assert plain.fingerprint() != smooth.fingerprint()
    assert smooth.front.antialias


def test_tokens_are_in_row_major_order():
    grid = torch.arange(6).view(1, 2, 3, 1)
    assert flatten_tokens(grid, "NHWC").flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert flatten_tokens(grid.permute(0, 3, 1, 2), "NCHW").flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert flatten_tokens(grid.flatten(1, 2), "NLC").shape == (1, 6, 1)


def test_moving_keeps_the_backbone():
    backbone, x = backbone_and_batch()
    assert backbone.to("cpu") is backbone
    assert isinstance(backbone.trunk, FrozenTrunk)
    assert backbone.forward_tokens(x)["visual/s1b01"].device == backbone.trunk.device == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["test_vit2", "test_resnet", "swinv2_tiny_window8_256", "htsat"])
def test_a_gpu_agrees_with_the_cpu_and_with_itself(name):
    backbone, x = backbone_and_batch(name, count=2)
    expected = backbone.forward_tokens(x)
    backbone.to("cuda")
    tokens = backbone.forward_tokens(x)
    assert same(tokens, backbone.forward_tokens(x))
    for layer, token in tokens.items():
        assert (token.cpu() - expected[layer]).abs().max() <= 5e-4 * expected[layer].abs().max()


def test_the_digest_is_over_names_types_and_bytes():
    module = nn.Linear(2, 2)
    digest = weights_digest(module)
    assert len(digest) == 32
    assert weights_digest(module) == digest
    other = nn.Linear(2, 2)
    other.load_state_dict(module.state_dict())
    assert weights_digest(other) == digest
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    assert weights_digest(other) != digest
    assert weights_digest(nn.Sequential(module)) != digest


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "htsat"])
def test_a_seed_gives_the_same_bits_and_leaves_the_callers_state_alone(name):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    first = create_backbone(name, weights="random", seed=1)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    second = create_backbone(name, weights="random", seed=1)
    third = create_backbone(name, weights="random", seed=2)
    assert first.trunk.digest == second.trunk.digest != third.trunk.digest
    assert first.weights_source == "random, seed 1"


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256@64", "test_resnet", "vit_small_patch14_dinov2@28"])
def test_every_block_acts(name):
    """As timm initialises, residual branches start at zero and all blocks of a stage would give equal tokens."""
    backbone = create_backbone(name, weights="random")
    x = torch.randn((1, *backbone.segment_shape), generator=torch.Generator().manual_seed(0))
    tokens = list(backbone.forward_tokens(x).values())
    for before, after in pairwise(tokens):
        if before.shape == after.shape:
            assert (before - after).std() > 0.05 * after.std()
    assert all(token.isfinite().all() and 1e-3 < token.std() < 100 for token in tokens)
