"""Compiled code is that of all files as they are now, is kept for the next start, and its compiling is announced."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import mettle_cache
from mettle_cache.methods.kernels.cpu import compiled

PACKAGE = Path(mettle_cache.__file__).parent
KERNELS = Path("mettle_cache", "methods", "kernels", "cpu")
KERNEL_SOURCES = Path(compiled.__file__).parent
ONE_ROW = """
import sys
sys.path.insert(0, "")
import numpy as np
from mettle_cache.methods.kernels.cpu import compiled, softmax
with compiled.announced(lambda text: print("note:", text)):
    row = np.float32([-3, 5, 2])
    print(softmax.highest_value(row, 3))
"""
POOLING = """
import sys
sys.path.insert(0, "")
import torch
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.tokens import INT8, LayerTokens
parts = {"scale": torch.ones(1, 16), "zero": torch.zeros(1, 16)}
codes = torch.tensor([9, 1, 1, 1], dtype=torch.int8).view(1, 4, 1).expand(1, 4, 16)
tokens = LayerTokens(codes, INT8, parts)
queries, mixing = torch.ones(1, 16), torch.ones(1, 4)
print(*(round(part.mean().item(), 3) for part in absorbed_pooling(tokens, queries, mixing)))
"""


@pytest.fixture
def copy(tmp_path):
    """A folder with the package, which is not installed, and a home without a cache."""
    ignored = shutil.ignore_patterns("__pycache__", "pipelines", "cli")
    shutil.copytree(PACKAGE, tmp_path / "mettle_cache", ignore=ignored)
    return tmp_path


def start(folder, program, **variables):
    """Lines that a new process prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    environment = inherited | {"XDG_CACHE_HOME": str(folder / "home"), "METTLE_BYTE_TILES": "0"} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def double_floats_of_bits(folder):
    """Make compiled.py's ``float_of``, which other files call, give twice the float."""
    path = folder / KERNELS / "compiled.py"
    edit(
        path,
        "return builder.bitcast(arguments[0], FloatType())",
        "x = builder.bitcast(arguments[0], FloatType())\n        return builder.fadd(x, x)",
    )


def test_a_change_to_a_helper_takes_effect_at_the_next_start_and_nothing_else_compiles_anew(copy):
    announcement = "note: compiling kernels, once for this machine"
    assert start(copy, ONE_ROW) == [announcement, "5.0"]
    assert start(copy, ONE_ROW) == ["5.0"]
    double_floats_of_bits(copy)
    assert start(copy, ONE_ROW) == [announcement, "10.0"]
    kept = sorted((copy / "home" / "mettle-cache" / "kernels").iterdir())
    assert len(kept) == 2
    assert not list(copy.rglob("mettle_cache/**/*.nbc"))


@pytest.mark.slow
def test_pooling_with_a_warm_cache_follows_a_change_to_a_helper(copy):
    """Attention is all on the first token; a query that the helper makes 0 spreads it over the four alike."""
    assert start(copy, POOLING) == start(copy, POOLING) == ["9.0 12.0"]
    row = "return queries[frame % queries.shape[0], p]"
    edit(copy / KERNELS / "compiled.py", row, f"{row} * np.float32(0)")
    assert start(copy, POOLING) == ["3.0 12.0"]


def test_every_byte_and_every_name_of_the_sources_is_in_the_digest(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "notes.txt").write_text(str(folder))
        return compiled.folder_digest(folder)

    assert digest(a="x = 1", b="y") == digest(b="y", a="x = 1")
    # the second has as many bytes as the first
    others = [digest(a="x = 1", b="y"), digest(a="x = 2", b="y"), digest(a="x = 1y", b=""), digest(a="x = 1", c="y")]
    assert len(set(others)) == 4


def test_a_folder_that_the_user_names_for_numba_is_taken(copy):
    start(copy, ONE_ROW, NUMBA_CACHE_DIR=str(copy / "named"))
    assert list(copy.glob("named/mettle-cache-kernels/*/*/softmax.highest_value*.nbc"))
    assert not (copy / "home").exists()


def test_other_functions_of_the_process_are_kept_where_numba_keeps_them(copy):
    (copy / "theirs.py").write_text("import numba\n@numba.njit(cache=True)\ndef one():\n    return 1\n")
    start(copy, ONE_ROW + "import theirs\ntheirs.one()\n")
    assert list(copy.glob("__pycache__/theirs.one*.nbc"))


@pytest.fixture
def fresh_choice():
    compiled.cache_folder.cache_clear()
    yield
    compiled.cache_folder.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_a_start_marks_its_folder_and_removes_nothing_where_it_was_before(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.config, "CACHE_DIR", str(tmp_path))
    base = tmp_path / "mettle-cache-kernels"
    folders = [base / name for name in ("a", "b", "c", "d", "e", compiled.folder_digest(KERNEL_SOURCES))]
    for folder in folders:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    assert compiled.cache_folder() == folders[-1]
    assert compiled.time.time() - folders[-1].stat().st_mtime < 60
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.usefixtures("fresh_choice")
def test_a_home_that_cannot_be_written_leaves_the_sources_own_folder_and_then_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "")
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(compiled, "_SOURCES", sources)
    assert compiled.cache_folder() == sources / "__pycache__" / "kernels" / compiled.folder_digest(sources)
    compiled.cache_folder.cache_clear()
    monkeypatch.setattr(compiled, "_SOURCES", tmp_path / "file")
    assert compiled.cache_folder() is None
    doubled = compiled.compiled()(lambda x: 2 * x)
    assert doubled(2) == 4
    assert doubled.stats.cache_path is None


def test_folders_of_other_versions_go_when_they_are_old_and_many(tmp_path):
    now = compiled.time.time()
    for number in range(10):
        folder = tmp_path / f"version{number}"
        folder.mkdir()
        (folder / "kernel.nbc").write_text("")
        days = 30 - number if number < 8 else 0
        os.utime(folder, (now - days * 86400,) * 2)
    compiled.remove_unused(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [f"version{number}" for number in (6, 7, 8, 9)]
    for folder in tmp_path.iterdir():
        os.utime(folder)
    (tmp_path / "fifth").mkdir()
    compiled.remove_unused(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_other_packages_compile_is_not_announced():
    notes = []
    with compiled.announced(notes.append):
        assert numba.njit(lambda x: x + 1)(1) == 2
    assert notes == []
