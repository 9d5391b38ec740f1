"""The bill against the files: exact to the byte."""

import pytest

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODECS, get_codec
from mettle_cache.store.format.sizes import RECORDS, bytes_per_clip, files_per_clip
from tests.store.tiny import LAYERS, SEGMENTS, make_spec, write_store

SWIN_AND_HTSAT = tuple(
    LayerSpec(modality=modality, stage=stage, block=block, grid=(rows, rows), tokens=rows * rows, width=width)
    for modality, stages in {
        "visual": [(2, 48, 192), (2, 24, 384), (18, 12, 768), (2, 6, 1536)],
        "audio": [(2, 64, 96), (2, 32, 192), (6, 16, 384), (2, 8, 768)],
    }.items()
    for stage, (blocks, rows, width) in enumerate(stages, start=1)
    for block in range(1, blocks + 1)
)


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[1:3], LAYERS[-1:]])
@pytest.mark.parametrize("codec", CODECS)
def test_the_bill_is_what_is_on_disk(tmp_path, codec, layers):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(codec, layers=layers))
    bill = bytes_per_clip(layers, SEGMENTS, get_codec(codec))
    for array, nbytes in bill.items():
        if array != RECORDS:
            assert [file.stat().st_size for file in (path / array).glob("c.*")] == [nbytes] * 4
    manifest_row = (path / "manifest.parquet").stat().st_size / 4
    assert (path / "commits" / "00000003.json").stat().st_size + manifest_row <= bill[RECORDS] + 1024
    files = [file for file in path.rglob("*") if file.name.startswith("c.2.") or file.name == "00000002.json"]
    assert len(files) == files_per_clip(layers, SEGMENTS, get_codec(codec))


@pytest.mark.parametrize(("codec", "megabytes"), [("float16", 105.9), ("int8", 53.9), ("int4", 27.4)])
def test_the_full_layer_set_costs_what_the_design_says(codec, megabytes):
    nbytes = sum(bytes_per_clip(SWIN_AND_HTSAT, 10, get_codec(codec)).values())
    assert nbytes / 1e6 == pytest.approx(megabytes, abs=0.06)
