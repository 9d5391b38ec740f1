"""Pictures of the demo: a coloured shape that moves over textured noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 128
"""Height and width in pixels."""

Colour = tuple[int, int, int]
Draw = Callable[[ImageDraw.ImageDraw, float, float, float, Colour], None]


@dataclass(frozen=True)
class Shape:
    """What one category looks like."""

    colour: Colour
    draw: Draw


@dataclass(frozen=True)
class Scene:
    """The look of one clip: its background ``[SIZE, SIZE, 3]`` and the path and radius of its shape."""

    background: NDArray[np.uint8]
    radius: float
    speed: float
    phase: float

    def picture(self, shape: Shape | None, time: float) -> Image.Image:
        """The scene at ``time`` seconds, with the shape or without."""
        image = Image.fromarray(self.background)
        if shape is not None:
            reach = (SIZE / 2 - self.radius) * 0.8
            x = SIZE / 2 + reach * math.cos(self.speed * time + self.phase)
            y = SIZE / 2 + reach * math.sin(1.3 * self.speed * time + self.phase)
            shape.draw(ImageDraw.Draw(image), x, y, self.radius, shape.colour)
        return image


def make_scene(rng: np.random.Generator) -> Scene:
    """A muted background of coarse blotches and fine grain, and a path for the shape."""
    blotches = rng.uniform(70, 150, (6, 6, 3)).astype(np.uint8)
    coarse = np.asarray(Image.fromarray(blotches).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 8, (SIZE, SIZE, 1))
    background = np.clip(coarse + grain, 0, 255).astype(np.uint8)
    return Scene(background, *(float(rng.uniform(*span)) for span in ((22, 30), (0.4, 0.9), (0, 2 * math.pi))))


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)


def _triangle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=9)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=colour)
    draw.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=colour)


RED_DISC = Shape((225, 45, 40), _disc)
GREEN_SQUARE = Shape((45, 200, 70), _square)
BLUE_TRIANGLE = Shape((40, 80, 230), _triangle)
YELLOW_RING = Shape((240, 220, 40), _ring)
WHITE_CROSS = Shape((250, 250, 250), _cross)
