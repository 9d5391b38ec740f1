"""A sweep's record in its folder."""

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.sweeps.record import RECORD, check_record, read_record, write_record
from mettle_cache.pipelines.sweeps.sweep_file import read_sweep


def test_a_folder_gives_its_sweep_back(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path / "out", read_sweep("table7"))
    assert read_record(tmp_path / "out") == read_sweep("table7")
    check_record(tmp_path / "out", read_sweep("table7"))
    with pytest.raises(RunError, match="this folder holds the sweep table7"):
        check_record(tmp_path / "out", read_sweep("table9"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": "mettle-sweep-9"}', '{"format": "mettle-sweep-1", "name": "a", "text": "x"}']
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(RunError, match=r"sweep\.json: not a sweep's record that this version reads") as error:
        read_record(tmp_path)
    assert "the runs stay" in error.value.hint
