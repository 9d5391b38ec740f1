"""The wheel in a new environment: the links to ``pipelines/`` and ``cli/`` are followed, and nothing is left behind."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mettle_cache", "pipelines", "cli")
SHIPPED = ("*.py", "*.toml", "*.html", "*.css", "*.js", "py.typed")
NEEDS_SETUPTOOLS = 77


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, so that nothing an earlier build left beside them can get in."""
    source, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    # an environment that `make install` made can build alone; pip fetches setuptools for an older one
    enough = int(version("setuptools").split(".")[0]) >= NEEDS_SETUPTOOLS
    pip("wheel", "--no-deps", *(["--no-build-isolation"] if enough else []), "--wheel-dir", out, source)
    return next(out.glob("mettle_cache-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment that has the wheel, and sees the libraries of this one but not its own mettle_cache."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    site = next(folder.glob("lib/python*/site-packages"))
    # a path that a .pth file names has its own .pth files ignored, so an editable install in it has no effect
    (site / "libraries.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return folder


def run_there(environment, folder, *command):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    program, *arguments = command
    result = subprocess.run(
        [environment / "bin" / program, *arguments], cwd=folder, env=clean, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_source_is_in_the_wheel(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(Path("mettle_cache", *path.relative_to(ROOT).parts[folder == "mettle_cache" :]))
        for folder in FOLDERS
        for pattern in SHIPPED
        for path in (ROOT / folder).rglob(pattern)
        if path == path.resolve()
    }
    assert len(ours) > 200
    assert ours <= packed
    assert {name.split("/")[0] for name in packed if not name.startswith("mettle_cache-")} == {"mettle_cache"}


def test_the_command_works_both_ways(environment, tmp_path):
    assert run_there(environment, tmp_path, "mettle", "--version").startswith("mettle-cache ")
    assert run_there(environment, tmp_path, "python", "-m", "mettle_cache", "--version").startswith("mettle-cache ")
    assert "ave" in run_there(environment, tmp_path, "mettle", "datasets")


def test_modules_recipes_and_types_are_there(environment, tmp_path):
    code = """
from importlib.resources import files
from importlib.util import find_spec
import mettle_cache.cli.main, mettle_cache.pipelines
print(mettle_cache.__file__)
print(find_spec("pipelines"), find_spec("cli"))
print(files("mettle_cache").joinpath("py.typed").is_file())
print(sum(name.name.endswith(".toml") for name in files("mettle_cache.pipelines").joinpath("recipes").iterdir()))
"""
    file, others, typed, recipes = run_there(environment, tmp_path, "python", "-c", code).splitlines()
    assert file.startswith(str(environment))
    assert others == "None None"
    assert typed == "True"
    assert int(recipes) == len(list((ROOT / "pipelines" / "recipes").glob("*.toml"))) > 10
