"""Passes over resident inputs: every one runs, so many at once, and the seconds are theirs."""

import threading

import pytest
import torch

from mettle_cache.pipelines.extract import rates
from mettle_cache.pipelines.extract.rates import TIMED_SEGMENTS, run_passes, seconds_a_clip

CPU = torch.device("cpu")


class Watched:
    """A backbone that remembers its inputs, and how many passes there were at once."""

    segment_shape = (3, 4, 4)

    def __init__(self):
        self.seen, self.now, self.most = [], 0, 0
        self.lock, self.barrier = threading.Lock(), None

    def forward_tokens(self, x):
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        with self.lock:
            self.seen.append(tuple(x.shape))
            self.now += 1
            self.most = max(self.most, self.now)
        if self.barrier is not None:
            self.barrier.wait(10)
        with self.lock:
            self.now -= 1


def test_every_pass_goes_through_every_backbone_and_lanes_run_at_once():
    first, second = Watched(), Watched()
    first.barrier = threading.Barrier(2)  # nobody passes alone
    passes = [[torch.zeros(number, 3), torch.zeros(number, 5)] for number in range(1, 5)]
    assert run_passes([first, second], passes, lanes=2, device=CPU) > 0
    assert sorted(first.seen) == [(number, 3) for number in range(1, 5)]
    assert sorted(second.seen) == [(number, 5) for number in range(1, 5)]
    assert first.most == 2


def test_one_lane_runs_one_pass_at_a_time():
    backbone = Watched()
    run_passes([backbone], [[torch.zeros(1, 3)]] * 5, lanes=1, device=CPU)
    assert backbone.most == 1


@pytest.mark.parametrize("cores", [1, 3])
def test_a_clips_seconds_are_the_trials_share(cores, monkeypatch):
    """A trial of 2 segments in each of ``cores`` lanes takes 6 s: a clip of 10 segments takes 10 * 6 / (2 * cores)."""
    monkeypatch.setattr(rates, "available_cores", lambda: cores)
    monkeypatch.setattr(rates, "run_passes", lambda backbones, passes, *, lanes, device: 6.0)
    assert seconds_a_clip([Watched(), Watched()], CPU, 10) == pytest.approx(2 * 10 * 6 / (TIMED_SEGMENTS * cores))


def test_the_trial_warms_up_before_it_counts():
    backbone = Watched()
    assert seconds_a_clip([backbone], CPU, 10) > 0
    assert set(backbone.seen) == {(TIMED_SEGMENTS, 3, 4, 4)}
    assert len(backbone.seen) == 2 * rates.available_cores()
