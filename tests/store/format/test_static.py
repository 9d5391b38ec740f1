"""Static arrays as files: what is written is what is read, for codecs whose layers share arrays too."""

import google_crc32c
import numpy as np
import pytest
import torch

from mettle_cache.errors import StoreError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CodecArray
from mettle_cache.store.format.layout import static_layout
from mettle_cache.store.format.static import parse_static, static_contents

LAYERS = tuple(
    LayerSpec(modality="visual", stage=2, block=block, grid=(1, 3), tokens=3, width=4) for block in range(1, 6)
)
NAMES = [layer.name for layer in LAYERS]


class Tables:
    """Declares a table of 7 numbers for every layer, and nothing else that matters here."""

    name = "tables"

    def arrays(self, layers, segments):
        axes = ("segment", "token", "channel")
        return (
            CodecArray(part="codes", dtype="int8", axes=axes, shape=(segments, 3, 4)),
            CodecArray(part="table", dtype="int16", axes=("code",), shape=(7,), static=True),
        )


def tables():
    return {name: {"table": torch.arange(7, dtype=torch.int16) + 300 * number} for number, name in enumerate(NAMES)}


def test_what_is_written_is_read():
    codec = Tables()
    contents = static_contents(LAYERS, 2, codec, tables())
    layout = static_layout(LAYERS, 2, codec)
    assert list(contents) == [array.file for array in layout] == ["static/visual/s2_table/c.0.0"]
    read = parse_static(layout, list(contents.values()))
    assert list(read) == NAMES
    for name, arrays in tables().items():
        assert torch.equal(read[name]["table"], arrays["table"])


def test_a_file_is_the_tables_one_after_the_other_and_their_checksum():
    (content,) = static_contents(LAYERS, 2, Tables(), tables()).values()
    values = np.stack([np.arange(7) + 300 * number for number in range(len(NAMES))]).astype("<i2").tobytes()
    assert content == values + google_crc32c.value(values).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "not none at all"),
        (torch.zeros(6, dtype=torch.int16), r"not int16 \(6,\)"),
        (torch.zeros(7, dtype=torch.int32), r"not int32 \(7,\)"),
    ],
)
def test_what_the_codec_does_not_declare_is_refused_with_the_layer(array, message):
    wrong = {**tables(), NAMES[3]: {} if array is None else {"table": array}}
    with pytest.raises(StoreError, match=rf"layer {NAMES[3]}: codec tables stores int16 \(7,\) .* table, {message}"):
        static_contents(LAYERS, 2, Tables(), wrong)
