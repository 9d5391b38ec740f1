"""Masks as files, pixel by pixel."""

import io

import numpy as np
from PIL import Image

from mettle_cache.tasks.avs.pictures import mask_png

LEFT = np.zeros((224, 224), bool)
LEFT[:, :112] = True


def test_a_mask_is_an_8_bit_png_of_0_and_255():
    picture = Image.open(io.BytesIO(mask_png(LEFT)))
    assert (picture.mode, picture.format) == ("L", "PNG")
    assert np.array_equal(np.asarray(picture) == 255, LEFT)
    assert set(np.unique(picture)) == {0, 255}
