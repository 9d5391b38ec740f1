"""Every number of a recipe has a least and a greatest value, every list a greatest length."""

import dataclasses
import pkgutil
from importlib import import_module
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

import mettle_cache
from mettle_cache.options import Options, numeric_ranges


def all_options():
    """Every dataclass of options in this package."""
    for name in ("tasks", "methods", "decoders", "pipelines.train"):
        package = import_module(f"mettle_cache.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"mettle_cache.{name}."):
            if "kernels" not in module.name:
                import_module(module.name)
    kinds, found = [Options], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found += [kind] if dataclasses.is_dataclass(kind) and kind.__module__.startswith(mettle_cache.__name__) else []
    return sorted(found, key=lambda kind: kind.__qualname__)


def unbounded_lists(hint, bounded=False):
    """Lists in an annotation without a greatest length."""
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        limits = [limit for item in extras for limit in getattr(item, "metadata", [item])]
        yield from unbounded_lists(inner, any(hasattr(limit, "max_length") for limit in limits))
        return
    if get_origin(hint) in (tuple, list) and not bounded:
        yield hint
    for inner in get_args(hint):
        yield from unbounded_lists(inner)


FIELDS = [
    (kind.__name__, field.name, get_type_hints(kind, include_extras=True)[field.name])
    for kind in all_options()
    for field in dataclasses.fields(kind)
]


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS, ids=[f"{kind}.{name}" for kind, name, _ in FIELDS])
def test_every_number_and_every_list_is_bounded(kind, name, hint):
    for span in numeric_ranges(hint):
        assert span.least is not None
        assert span.greatest is not None
    assert list(unbounded_lists(hint)) == []


def test_the_walk_finds_options_and_what_is_not_bounded():
    names = {kind for kind, _, _ in FIELDS}
    assert {"TrainOptions", "LCDOptions", "LinearOptions", "MMPyrOptions", "AvsHeadOptions", "AvqaHeadOptions"} <= names
    assert [str(span) for span in numeric_ranges(int | tuple[float, ...] | str)] == ["None to None"] * 2
    assert list(unbounded_lists(int | tuple[int, ...])) == [tuple[int, ...]]
