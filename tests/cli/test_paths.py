"""Every option and argument that names a file or folder goes through the one rule for paths."""

from pathlib import Path
from typing import get_args

import pytest
import typer.main

from mettle_cache.cli.main import build_app
from mettle_cache.paths import local_path

# texts that may be a path beside other things; tests/test_paths.py shows what becomes of an address in them
TEXTS = {"--from-cache", "--fill-cache", "--recipe", "--visual", "--audio", "--set", "--variant"}
NAMES = {"out", "root", "store", "folder", "file", "path", "from", "sources", "weights", "cache"}


def parameters(command, words=()):
    for parameter in command.params:
        yield " ".join(words), parameter
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*words, name))


PARAMETERS = list(parameters(typer.main.get_command(build_app())))


def is_path(parameter):
    return parameter.type_descriptor.parameter_info.parser is local_path


def name_of(found):
    return f"{found[0]} {found[1].opts[-1]}"


@pytest.mark.parametrize("found", PARAMETERS, ids=name_of)
def test_no_parameter_is_a_path_of_typer_s_own(found):
    _, parameter = found
    if Path in (parameter.type_descriptor.annotation, *get_args(parameter.type_descriptor.annotation)):
        assert is_path(parameter), "declare it by cli.options.path_option or path_argument"
    words = {word.strip("-") for option in parameter.opts for word in option.strip("-").split("-")}
    if words & NAMES and not is_path(parameter):
        assert set(parameter.opts) & TEXTS, "this is a text, but its name is that of a path"


def test_the_paths_are_found():
    assert len([found for found in PARAMETERS if is_path(found[1])]) > 15


@pytest.mark.parametrize(
    "command",
    [
        "info s3://bucket/x",
        "evaluate runs/a s3://bucket/x",
        "evaluate runs/a --store gs://bucket/x",
        "extract --dataset ave --out s3://bucket/x",
        "extract --dataset ave --visual swinv2_l=s3://bucket/w.pt",
        "train --from-cache s3://bucket/x",
        "train --from-cache=s3://bucket/x",
        "bench --report --from s3://bucket/x",
        "bench read --folder s3://bucket/x",
        "demo --out s3:/bucket/x",
    ],
)
def test_an_address_is_wrong_usage(mettle, command):
    code, document, _ = mettle(*command.split())
    assert code == 2
    assert "is an address, not a path" in document["error"]["message"]
