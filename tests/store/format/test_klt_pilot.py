"""The pilot of the klt codecs: the frames it chooses, its bits against all choices, its statistics in float64."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.klt import KltCodec
from mettle_cache.store.format.klt_pilot import FRAMES, GAUSSIAN, allocate_bits, principal_components
from tests.store.format.test_klt import layer_of, random_tokens, static_of

LAYER = layer_of((4, 4), 16)


def chosen(clips, segments, wanted=FRAMES):
    """What whoever runs a pilot shows it: until there are enough."""
    frames = []
    for index, numbers in get_codec("klt1.5").pilot([LAYER]).choose(clips, segments):
        if len(frames) >= wanted:
            break
        frames += [(index, number) for number in numbers]
    return frames


@settings(max_examples=40)
@given(st.integers(1, 700), st.integers(1, 12), st.integers(0, 3))
def test_the_frames_are_500_of_as_many_clips_as_there_are(count, segments, offset):
    clips = [f"clip {number + offset}" for number in range(count)]
    frames = chosen(clips, segments)
    assert len(frames) == len(set(frames)) == min(FRAMES, count * segments)
    assert all(0 <= number < segments for _, number in frames)
    assert len({index for index, _ in frames}) == min(FRAMES, count)
    shown = [sum(index == clip for index, _ in frames) for clip in range(min(count, 60))]
    if count <= FRAMES:
        assert max(shown) - min(shown) <= 1


def test_the_choice_follows_from_the_ids_and_not_from_their_order():
    clips = [f"clip {number}" for number in range(800)]
    by_id = [(clips[index], number) for index, number in chosen(clips, 10)]
    turned = clips[::-1]
    assert [(turned[index], number) for index, number in chosen(turned, 10)] == by_id
    # the order is that of hashes, so that it says nothing about the data set
    order = [int(name.split()[1]) for name, _ in by_id]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.2
    assert len({number for _, number in by_id}) == 10


def test_a_clip_that_cannot_be_shown_is_replaced_by_frames_of_others():
    clips = [f"clip {number}" for number in range(60)]
    frames = []
    for index, numbers in get_codec("klt2").pilot([LAYER]).choose(clips, 10):
        if len(frames) >= FRAMES:
            break
        if index != 3:
            frames += [(index, number) for number in numbers]
    assert len(frames) == len(set(frames)) == FRAMES
    assert len({index for index, _ in frames}) == 59


def least_error(energy, nbytes):
    """Over all choices of bits."""
    return min(
        sum(power * GAUSSIAN[bits][1] for power, bits in zip(energy, choice, strict=True))
        for choice in itertools.product(GAUSSIAN, repeat=len(energy))
        if sum(choice) <= nbytes
    )


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=5), st.integers(0, 30))
def test_no_other_bits_leave_a_smaller_error(energy, nbytes):
    energy = sorted(energy, reverse=True)
    bits = allocate_bits(np.repeat(energy, 8) / 8, nbytes)
    assert sum(int(number) for number in bits) <= nbytes
    assert list(bits) == sorted(bits, reverse=True)
    error = sum(power * GAUSSIAN[int(number)][1] for power, number in zip(energy, bits, strict=True))
    assert error == pytest.approx(least_error(energy, nbytes), rel=1e-9, abs=1e-12)
    if nbytes <= 2 * len(energy):
        assert sum(int(number) for number in bits) == nbytes


def test_rows_may_have_more_bytes_than_a_byte_counts():
    energy = np.geomspace(1e3, 1e-3, 192)
    bits = allocate_bits(np.repeat(energy, 8), 288)
    assert int(bits.sum(dtype=int)) == 288
    assert list(bits) == sorted(bits, reverse=True)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_table_is_of_the_best_quantiser_of_a_gaussian(bits):
    x = np.linspace(-10, 10, 400_001)
    weights = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])

    def error(step):
        codes = np.clip(np.floor(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return float((weights * (x - step * (codes + 0.5)) ** 2).sum())

    step, expected = GAUSSIAN[bits]
    assert error(step) == pytest.approx(expected, rel=2e-3)
    assert error(step) <= min(error(step * 0.99), error(step * 1.01))


@pytest.mark.parametrize("cell", [1, 2])
def test_the_basis_diagonalises_the_second_moment_of_what_was_seen(cell):
    layer = layer_of((4, 4), 8, cell)
    codec, frames = KltCodec("klt", 8), 200
    static = static_of(codec, layer, frames)[layer.name]
    square = 8 * cell**2
    x = torch.nn.functional.layer_norm(random_tokens(layer, frames, 7).double(), (8,), eps=1e-5)
    moment = np.zeros((square, square))
    for frame in (x - x.mean(1, keepdim=True)).numpy():
        grid = frame.reshape(4 // cell, cell, 4 // cell, cell, 8)
        for row, column in np.ndindex(grid.shape[0], grid.shape[2]):
            vector = grid[row, :, column].reshape(-1)
            moment += np.outer(vector, vector)
    rotated = static["basis"].double().numpy()[:, :square]
    rotated = rotated.T @ (moment / (frames * 16 / cell**2)) @ rotated
    variances = np.diag(rotated)
    assert np.abs(rotated - np.diag(variances)).max() < 0.01 * variances.max()
    assert (variances[:-1] >= variances[1:] - 0.01 * variances.max()).all()
    expected = [GAUSSIAN[bits][0] for bits in static["bits"].tolist()[:square]] * np.sqrt(variances)
    np.testing.assert_allclose(static["step"].numpy()[:square], expected, rtol=0.05, atol=0.01)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(0, 3), st.sampled_from([0.0, 1e-3, 1.0]), st.sampled_from(["klt1.5", "klt0"]))
def test_few_frames_constant_tokens_and_single_tokens_give_arrays_too(width, frames, spread, name):
    layer, codec = layer_of((1, 1), width), get_codec(name)
    pilot = codec.pilot([layer])
    for frame in range(frames):
        pilot.add({layer.name: torch.full((1, 1, width), 3.0) + spread * random_tokens(layer, 1, frame)})
    static = pilot.finish()[layer.name]
    form = codec.format(layer, static)
    assert form.row_bytes == codec.row_bytes(layer)
    assert all(torch.isfinite(array).all() for array in static.values())
    assert (static["step"][: form.components] > 0).all()
    assert not static["basis"][:, form.components :].any()
    assert not static["step"][form.components :].any()


def test_the_arrays_are_the_same_bytes_every_time_and_with_more_threads():
    layer = LayerSpec(modality="visual", stage=1, block=1, grid=(6, 6), tokens=36, width=96)
    first = static_of(get_codec("klt1.5"), layer, frames=8)[layer.name]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = static_of(get_codec("klt1.5"), layer, frames=8)[layer.name]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(array, again[name]) for name, array in first.items())


def test_vectors_point_where_their_largest_entry_is_positive():
    random = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors = principal_components(random @ random.mT)
    assert torch.allclose(vectors.mT @ vectors, torch.eye(12, dtype=torch.float64), atol=1e-12)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()
