"""The walls of the house: who may import whom, and how large a file or a function may grow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("mettle_cache", "pipelines", "cli")
BASE = {f"mettle_cache.{name}" for name in ("errors", "layers", "tokens", "samples", "profile", "statedict")}
LIBRARY = {
    "errors": set(),
    "layers": {"errors"},
    "tokens": {"errors"},
    "samples": set(),
    "profile": set(),
    "statedict": {"errors"},
    "store": set(),
    "metrics": set(),
    "backbones": set(),
    "datasets": set(),
    "methods": set(),
    "decoders": set(),
    "tasks": {"methods", "decoders", "metrics"},
}
SOURCES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in OURS)


def part_of(module):
    """The second name of a module of the library: ``mettle_cache.store.reading.token_store`` is of ``store``."""
    return module.split(".")[1] if module.startswith("mettle_cache.") else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package, *inner = path.relative_to(ROOT).with_suffix("").parts
    own = inner[0] if inner else "__init__"
    for module in imported_modules(path):
        top = module.split(".")[0]
        if top not in OURS or module in BASE or module in OURS:
            continue
        assert OURS.index(top) <= OURS.index(package), f"{path} imports {module}"
        if package == top == "mettle_cache" and own != "__init__":
            assert part_of(module) in LIBRARY[own] | {own}, f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{path}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_on_disk_is_unpickled(path):
    """Only ``torch.load(weights_only=True)`` and ``np.load(allow_pickle=False)`` may open foreign files."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            owner = ast.unparse(node.func.value)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert owner != "pickle"
            if owner == "torch":
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
            if owner in ("np", "numpy"):
                assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}"


def test_the_command_starts_without_the_heavy_libraries():
    """``mettle --help`` answers at once: torch, timm, zarr and dask are imported by the commands that need them."""
    heavy = "{'torch', 'timm', 'zarr', 'dask', 'pyarrow'}"
    code = f"import sys, mettle_cache.cli.main; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ}
    )
    assert result.stdout.strip() == "[]"
