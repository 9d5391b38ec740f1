from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mettle_cache.datasets import (
    DATASETS,
    DatasetInfo,
    dataset_info,
    default_root,
    list_datasets,
    open_dataset,
    resolve_options,
)
from mettle_cache.errors import PluginError, UsageError
from mettle_cache.registry import DatasetRow


def test_ave_is_listed_with_what_a_user_needs_to_know() -> None:
    infos, broken = list_datasets()
    assert [info.name for info in infos] == ["ave", "avs-ms3", "avs-s4", "folder", "llp", "music-avqa"]
    assert broken == {}
    assert infos[0].segments == 10
    assert infos[0].default_root == default_root("ave") == Path("data/AVE")
    assert len(infos[0].layouts) == 3


def test_each_data_set_names_its_task() -> None:
    tasks = {"ave": "avel", "llp": "avvp", "avs-s4": "avs", "avs-ms3": "avs", "music-avqa": "avqa", "folder": "avel"}
    assert {row.name: row.task for row in DATASETS} == tasks


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no data set is called 'eva'\n  next: .*use one of ave, llp"):
        open_dataset("eva")
    with pytest.raises(UsageError, match="no data set is called 'eva'"):
        default_root("eva")


OWN = DatasetInfo("own", "Ours", 3, Path("data/own"), ("*.txt",), open=lambda root, **options: (root, options))


@pytest.fixture
def register():
    rows = []

    def add(name: str, target: str) -> None:
        rows.append(DATASETS.register(DatasetRow(name, target)))

    yield add
    for row in rows:
        DATASETS.unregister(row.name)


def test_a_data_set_of_ones_own(register, tmp_path: Path) -> None:
    register("own", f"{__name__}:OWN")
    assert open_dataset("own", tmp_path) == (tmp_path, {})
    assert OWN in list_datasets()[0]
    with pytest.raises(ValueError, match="a data set named 'own' is registered already"):
        register("own", f"{__name__}:OWN")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        (
            "lost",
            "nowhere.at.all:INFO",
            "'lost' stands for nowhere.at.all:INFO, which cannot be loaded: ModuleNotFound",
        ),
        ("odd", "mettle_cache.errors:UsageError", "mettle_cache.errors:UsageError is no DatasetInfo but a type"),
        ("other", f"{__name__}:OWN", f"the data set 'other' calls itself 'own' in {__name__}:OWN"),
    ],
)
def test_a_row_that_leads_nowhere_is_a_line_in_the_list(register, name: str, target: str, message: str) -> None:
    register(name, target)
    infos, broken = list_datasets()
    assert len(infos) == 6
    assert broken[name].startswith(message)
    with pytest.raises(PluginError, match=re.escape(message)):
        dataset_info(name)


def test_a_broken_package_is_a_line_of_the_command(tmp_path: Path) -> None:
    """An installed package whose entry point fails keeps nobody from anything but its own data set."""
    installed = tmp_path / "birds-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[mettle_cache.datasets]\nbirds = birds_rows:DATASET\n")
    (tmp_path / "birds_rows.py").write_text("raise RuntimeError('no birds today')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-m", "mettle_cache.cli.main"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )

    listed = run("datasets")
    reason = "birds, entry point birds_rows:DATASET: RuntimeError: no birds today"
    assert listed.returncode == 0, listed.stderr
    assert f"cannot be used: birds: {reason}" in listed.stdout
    assert "music-avqa" in listed.stdout
    refused = run("extract", "--dataset", "birds")
    assert refused.returncode == 1
    assert refused.stderr == f"error: the data set 'birds' comes from a broken plug-in: {reason}\n"


def test_options_have_defaults_and_choices() -> None:
    assert resolve_options("ave", {}) == {}
    assert resolve_options("avs-s4", {}) == {"train_frames": "1"}
    assert resolve_options("avs-s4", {"train_frames": "5"}) == {"train_frames": "5"}
    assert resolve_options("folder", {"duration": "007"}) == {"duration": "7"}
    with pytest.raises(UsageError, match=r"option train_frames=3: must be one of 1, 5"):
        resolve_options("avs-s4", {"train_frames": "3"})
    with pytest.raises(
        UsageError, match=r"the data set avs-s4 has no option 'frames'\n  next: its options: train_frames"
    ):
        resolve_options("avs-s4", {"frames": "1"})
    with pytest.raises(UsageError, match=r"the data set ave has no option 'frames'\n  next: it has no options"):
        open_dataset("ave", options={"frames": "1"})


def test_a_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the ave folder .*nowhere does not exist"):
        open_dataset("ave", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the ave folder .*file is a file, not a folder"):
        open_dataset("ave", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_root_without_permission(tmp_path: Path) -> None:
    (tmp_path / "AVE").mkdir(mode=0o400)
    with pytest.raises(UsageError, match=r"the ave folder .*AVE cannot be read: permission denied"):
        open_dataset("ave", tmp_path / "AVE")


def test_the_default_root_serves_when_none_is_given(annotate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = annotate()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "AVE").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    assert open_dataset("ave").root == Path("data/AVE")


def test_listing_the_data_sets_loads_no_decoder() -> None:
    heavy = {"torch", "torchaudio", "timm", "av", "soundfile", "PIL", "h5py", "zarr", "dask"}
    code = f"""
import sys, mettle_cache.datasets as datasets
assert len(datasets.list_datasets()[0]) == 6
print({heavy} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
