"""The walls of the house: who may import whom, what loads with what, and how large a file or a function may grow."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("mettle_cache", "pipelines", "cli")
# from the bottom up: nothing imports what stands above it
FLOORS = ("library", "tasks", "pipelines", "cli")
# what every part of the library may use
SHARED = {
    "companions",
    "content",
    "devices",
    "errors",
    "klt_tokens",
    "late_bundle",
    "layers",
    "meta_device",
    "options",
    "paths",
    "preprocessing",
    "registry",
    "samples",
    "sealing",
    "statedict",
    "tokens",
    "weights_file",
}
# and which other parts it may use beside these
PARTS = {
    "backbones": set(),
    "datasets": set(),
    "decoders": set(),
    "methods": set(),
    "metrics": set(),
    "store": set(),
    "tasks": {"methods", "decoders", "metrics"},
}
KERNELS = "mettle_cache.methods.kernels"
BENCHES = "mettle_cache.pipelines.benchmark"
# a folder a machine: only what is in it, the one dispatch, and whoever tells what the machine has know of it
MACHINES = (f"{KERNELS}.cpu", f"{KERNELS}.cuda")
TELLS_WHAT_THERE_IS = ("pipelines/doctor.py", "pipelines/benchmark/")
# resolved: mettle_cache holds links to the other two
SOURCES = sorted({path.resolve() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")})


def module_name(path):
    """The name under which a file is imported: pipelines/doctor.py is ``mettle_cache.pipelines.doctor``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "mettle_cache" else ("mettle_cache", *parts))
    return name.removesuffix(".__init__")


@cache
def parsed(path):
    """A file's syntax tree, which several of these tests look at."""
    return ast.parse(path.read_text())


@cache
def imported_modules(path):
    """Every module that a file imports, at the top or inside a function; names taken from a package as modules too."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(module):
    """The second name of a module: ``mettle_cache.store.reading.token_store`` is of ``store``; "" for the package."""
    return (*module.split("."), "")[1]


def floor_of(module):
    part = part_of(module)
    return FLOORS.index(part if part in FLOORS else "library")


def run_apart(code, folder=ROOT, **environment):
    """What a new Python prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    return result.stdout.strip()


def wrong_imports(path):
    importer = module_name(path)
    if importer in ("mettle_cache", "mettle_cache.__main__"):
        return  # the front doors, which offer names of every floor and load them at use
    part = part_of(importer)
    for module in imported_modules(path):
        if not module.startswith("mettle_cache.") or part_of(module) in SHARED:
            continue
        if floor_of(module) > floor_of(importer):
            yield f"{path} imports {module}, which stands above it"
        elif floor_of(importer) <= FLOORS.index("tasks"):
            if part in SHARED:
                yield f"{path} is for every part, and imports {module}"
            elif part_of(module) not in PARTS[part] | {part}:
                yield f"{path} imports {module}, another part"


def in_all_sources(find):
    """What ``find`` finds wrong in any file."""
    assert len(SOURCES) > 200
    return [wrong for path in SOURCES for wrong in find(path)]


def test_imports_go_one_way():
    assert in_all_sources(wrong_imports) == []


def uses_of_benches(path):
    importer = module_name(path)
    if not importer.startswith((BENCHES, "mettle_cache.cli")):
        yield from (f"{path} imports {module}" for module in imported_modules(path) if module.startswith(BENCHES))


def test_nothing_but_the_command_imports_a_bench():
    assert in_all_sources(uses_of_benches) == []


def uses_of_machines(path):
    if module_name(path).startswith(KERNELS) or str(path.relative_to(ROOT)).startswith(TELLS_WHAT_THERE_IS):
        return
    for module in imported_modules(path):
        if module.startswith(MACHINES):
            yield f"{path} imports {module}: ask {KERNELS}.ops"


def test_only_the_kernels_know_the_machines():
    assert in_all_sources(uses_of_machines) == []


def what_is_too_long(path):
    lines = path.read_text().count("\n")
    if lines > 400:
        yield f"{path}: {lines} lines"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50:
            yield f"{path}:{node.lineno} {node.name}"


def test_files_and_functions_stay_small():
    assert in_all_sources(what_is_too_long) == []


def unsafe_loads(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            owner = ast.unparse(node.func.value)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                owner == "pickle"
                or (owner == "torch" and given.get("weights_only") != "True")
                or (owner in ("np", "numpy") and given.get("allow_pickle") != "False")
            ):
                yield f"{path}:{node.lineno} {owner}.load"


def test_nothing_on_disk_is_unpickled():
    """Only ``torch.load(weights_only=True)`` and ``np.load(allow_pickle=False)`` may open foreign files."""
    assert in_all_sources(unsafe_loads) == []


def test_only_one_name_of_ours_can_be_imported_elsewhere(tmp_path):
    """Outside of the checkout: ``pipelines`` and ``cli`` would collide with every project that has such folders."""
    code = (
        "from importlib.util import find_spec as find; "
        "print(*(find(name) is not None for name in "
        "('mettle_cache', 'mettle_cache.pipelines', 'mettle_cache.cli', 'pipelines', 'cli')))"
    )
    assert run_apart(code, tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1") == "True True True False False"


EXTRACTION = """
import sys
from dataclasses import replace
from pathlib import Path
from mettle_cache.pipelines.extract.cluster import extract_task
from mettle_cache.pipelines.extract.plan import make_plan
from mettle_cache.pipelines.extract.run import extract
from tests.pipelines.extraction import tiny, write_clips

def loaded():
    return sorted(name for name in sys.modules if name.startswith(STAGE_TWO))

config = tiny(write_clips(Path("AVE").absolute(), train=1), Path("store.zarr").absolute(), layers="last:1")
make_plan(config, measure=False)
after_plan = loaded()
# what a process of --workers and a worker of a dask cluster run
extract_task(replace(config, workers=1, device="cpu"), [0, 1])
after_task = loaded()
assert extract(config).ok
print(after_plan, after_task, loaded())
"""
STAGE_TWO = tuple(
    f"mettle_cache.{part}"
    for part in ("tasks", "methods", "decoders", "metrics", "pipelines.train", "pipelines.evaluate", "pipelines.online")
)


def test_stage_one_loads_nothing_of_stage_two(tmp_path):
    """Neither the plan, nor a worker's task, nor an extraction in one process."""
    code = EXTRACTION.replace("STAGE_TWO", repr(STAGE_TWO))
    assert run_apart(code, tmp_path, PYTHONPATH=str(ROOT)) == "[] [] []"


TRAINING = """
import importlib, pkgutil, sys
from pathlib import Path
import mettle_cache.pipelines.evaluate, mettle_cache.pipelines.train
for package in (mettle_cache.pipelines.train, mettle_cache.pipelines.evaluate):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
from tests.pipelines.tiny_store import write_tiny_store
store = write_tiny_store(Path("tiny.zarr"), 4, 2, 2)
recipe = mettle_cache.pipelines.train.load_recipe("ave-small", ["train.epochs=1", "lcd.dim=16"])
mettle_cache.pipelines.train.train(store, recipe=recipe, out="run")
mettle_cache.pipelines.evaluate.evaluate("run")
mettle_cache.pipelines.evaluate.export_run(Path("run"), repeats=1)
print(sorted(name for name in sys.modules if "timm" in name or "backbones" in name))
"""


def test_training_and_evaluation_load_no_backbone(tmp_path):
    """Neither their modules nor what they call while a head is trained, scored and exported."""
    assert run_apart(TRAINING, tmp_path, PYTHONPATH=str(ROOT)) == "[]"
