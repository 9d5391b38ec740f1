import pytest

from mettle_cache.methods.lst import LSTOptions
from mettle_cache.methods.unipt import UniPTOptions
from tests.methods.side_networks import HTSAT, SWIN, VIT


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        (LSTOptions(), (384, 192, 256)),
        (LSTOptions(preset="tiny"), (192, 96, 128)),
        (LSTOptions(preset="matched"), (488, 244, 488)),
        (LSTOptions(preset="matched", reduction=2), (768, 384, 512)),
        (LSTOptions(preset="matched", width_audio=100), (488, 100, 488)),
        (LSTOptions(reduction=3, width_visual=100), (100, 256, 100)),
        (UniPTOptions(), (768, 384, 512)),
        (UniPTOptions(preset="tiny"), (192, 96, 128)),
        (UniPTOptions(preset="matched"), (2048, 1024, 2048)),
    ],
)
def test_widths_of_presets_and_of_what_overrides_them(options, widths):
    assert tuple(options.width(layers[-1]) for layers in (SWIN, HTSAT, VIT)) == widths
