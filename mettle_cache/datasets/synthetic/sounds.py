"""Sounds of the demo: one kind a category, each function ``seconds, rng -> [n] float64`` of at most unit amplitude."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
"""Hz."""

Wave = NDArray[np.float64]
Sound = Callable[[float, np.random.Generator], Wave]


def _clock(seconds: float) -> Wave:
    return np.arange(round(seconds * RATE)) / RATE


def tone(seconds: float, rng: np.random.Generator) -> Wave:
    """A steady note with two overtones."""
    t, pitch = _clock(seconds), rng.uniform(420, 480)
    partials = [np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3)]
    note: Wave = np.sum(partials, axis=0) / 2
    return note


def chirps(seconds: float, rng: np.random.Generator) -> Wave:
    """Two sweeps a second, from about 500 to 4,000 Hz."""
    phase, low = np.mod(_clock(seconds) * 2, 1.0), rng.uniform(450, 600)
    sweep: Wave = np.sin(2 * np.pi * (low * phase + 1700 * phase**2) / 2)
    return sweep


def bursts(seconds: float, rng: np.random.Generator) -> Wave:
    """White noise, on for two thirds of every third of a second."""
    gate = np.mod(_clock(seconds) * 3, 1.0) < 0.66
    return np.clip(rng.normal(0, 0.3, len(gate)), -1, 1) * gate


def ticks(seconds: float, rng: np.random.Generator) -> Wave:
    """Eight short clicks a second, each a fast decay of a high note."""
    since = np.mod(_clock(seconds), 1 / 8)
    click: Wave = np.exp(-since * 120) * np.sin(2 * np.pi * rng.uniform(2400, 2800) * since)
    return click


def rumble(seconds: float, rng: np.random.Generator) -> Wave:
    """A buzzing low note that trembles six times a second."""
    t, pitch = _clock(seconds), rng.uniform(75, 95)
    buzz = np.sign(np.sin(2 * np.pi * pitch * t)) * 0.6
    return buzz * (0.7 + 0.3 * np.sin(2 * np.pi * 6 * t))


def make_track(sound: Sound, start: int, end: int, seconds: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``seconds`` of faint noise with ``sound`` in the seconds ``[start, end)``."""
    track = rng.normal(0, 0.004, seconds * RATE)
    if end > start:
        track[start * RATE : end * RATE] += rng.uniform(0.35, 0.7) * sound(end - start, rng)
    return track.astype(np.float32)
