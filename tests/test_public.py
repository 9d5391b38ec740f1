"""What ``import mettle_cache`` offers, how lightly, and README's example on any store."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mettle_cache
from mettle_cache import errors
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODECS
from tests.store import toy_codecs
from tests.store.test_other_codecs import write
from tests.store.tiny import make_spec, raw_tokens, write_store

ROOT = Path(__file__).parents[1]
LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=1, grid=(2, 2), tokens=4, width=8 * stage)
    for modality in ("visual", "audio")
    for stage in (1, 2)
)


def test_every_public_name_is_there():
    for name in mettle_cache.__all__:
        assert getattr(mettle_cache, name) is not None
        assert name in dir(mettle_cache)
    # nothing else is offered
    assert {name for name in dir(mettle_cache) if not name.startswith("__")} < set(mettle_cache.__all__)
    assert mettle_cache.__version__ == version("mettle-cache")
    with pytest.raises(AttributeError, match="module 'mettle_cache' has no attribute 'TokenStor'"):
        _ = mettle_cache.TokenStor


def test_every_error_is_public():
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert ours <= set(mettle_cache.__all__)


def test_importing_it_loads_nothing_that_is_large():
    code = (
        "import sys, mettle_cache; dir(mettle_cache); mettle_cache.UsageError; mettle_cache.__version__; "
        "print({'torch', 'numpy', 'zarr', 'pyarrow', 'pydantic'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"


def example():
    """The Python block of README."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return block


def run_example(path):
    code = re.sub(r'open\("[^"]*"\)', f"open({str(path)!r})", example())
    assert str(path) in code
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("codec", ["float16", "int8", "int4"])
@pytest.mark.parametrize("layers", [LAYERS, LAYERS[-2:], LAYERS[:1]], ids=["both", "audio", "one layer"])
def test_readmes_example_runs_on_any_store(tmp_path, codec, layers):
    write_store(tmp_path / "s.zarr", make_spec(codec, clips=4, layers=layers), failed=[0])
    names = run_example(tmp_path / "s.zarr")
    assert all(parameter.grad is not None for parameter in names["lcd"].parameters())


def test_readmes_example_runs_on_another_package_s_codec(tmp_path):
    CODECS.register(toy_codecs.SIX)
    try:
        pilot = toy_codecs.SixBitPilot(LAYERS)
        pilot.add(raw_tokens(0, LAYERS))
        write(tmp_path / "s.zarr", make_spec("six", 3, layers=LAYERS, static=pilot.finish()))
        assert run_example(tmp_path / "s.zarr")["store"].codec == "six"
    finally:
        CODECS.unregister("six")
