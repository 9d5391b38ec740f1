"""The digest inside a file that lies alone."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.sealing import file_seal_fits, seal, seal_fits

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0), "c": torch.tensor(True)}
TABLE = {"layers": ("x", "y"), "rate": 0.1}


def test_what_was_sealed_fits_and_comes_back_from_json():
    sealed = json.loads(json.dumps(seal(TENSORS, TABLE)))
    assert sealed["layers"] == ["x", "y"]
    assert seal_fits(TENSORS, sealed)
    assert seal_fits(dict(reversed(TENSORS.items())), sealed)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, table: tensors.update(a=tensors["a"].reshape(3, 2)),
        lambda tensors, table: tensors.update(a=tensors["a"].double()),
        lambda tensors, table: tensors.update(a=-tensors["a"]),
        lambda tensors, table: tensors.pop("b"),
        lambda tensors, table: table.update(rate=0.2),
        lambda tensors, table: table.update(more=None),
    ],
)
def test_any_change_is_noticed(change):
    tensors, table = dict(TENSORS), dict(seal(TENSORS, TABLE))
    change(tensors, table)
    assert not seal_fits(tensors, table)


def test_files_without_a_seal_are_left_alone(tmp_path):
    save_file(TENSORS, tmp_path / "plain.safetensors")
    (tmp_path / "text").write_text("x")
    save_file(TENSORS, tmp_path / "wrong.safetensors", metadata={"ours": json.dumps({**seal({}, {}), "x": 1})})
    assert file_seal_fits(tmp_path / "plain.safetensors")
    assert file_seal_fits(tmp_path / "text")
    assert file_seal_fits(tmp_path / "missing")
    assert not file_seal_fits(tmp_path / "wrong.safetensors")
