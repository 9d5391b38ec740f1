from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mettle_cache.datasets import default_root, list_datasets, open_dataset, resolve_options
from mettle_cache.datasets.registry import register
from mettle_cache.errors import UsageError


def test_ave_is_listed_with_what_a_user_needs_to_know() -> None:
    (info,) = [info for info in list_datasets() if info.name == "ave"]
    assert info.segments == 10
    assert info.default_root == default_root("ave") == Path("data/AVE")
    assert len(info.layouts) == 3


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'eva'\n  next: one of: .*ave"):
        open_dataset("eva")
    with pytest.raises(UsageError, match="unknown data set 'eva'"):
        default_root("eva")


def test_a_name_is_taken_once() -> None:
    info = list_datasets()[0]
    with pytest.raises(ValueError, match="is registered already"):
        register(info, lambda root: open_dataset("ave", root))


def test_options_have_defaults_and_choices() -> None:
    assert resolve_options("ave", {}) == {}
    assert resolve_options("avs-s4", {}) == {"train_frames": "1"}
    assert resolve_options("avs-s4", {"train_frames": "5"}) == {"train_frames": "5"}
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


def test_importing_the_data_sets_does_not_import_torch() -> None:
    code = "import sys, mettle_cache.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
