"""Options that are the fields of a configuration: every field has one, with the configuration's own default."""

import inspect
from dataclasses import MISSING, fields
from typing import Annotated

import pytest
import typer

from mettle_cache.cli.extraction_options import EXTRACTION
from mettle_cache.cli.options import TRAINING, Setting, takes
from mettle_cache.cli.pretrain_grounding import pretrain
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.train.config import GroundingJob, TrainJob

REQUIRED = inspect.Parameter.empty


def field_defaults(config):
    return {field.name: REQUIRED if field.default is MISSING else field.default for field in fields(config)}


def defaults_of(settings):
    return {
        name: REQUIRED if setting.default is REQUIRED else setting.parse(setting.default)
        for name, setting in settings.items()
    }


def test_extraction_has_an_option_for_every_field_with_its_default():
    assert defaults_of(EXTRACTION) == field_defaults(ExtractConfig)


def test_training_has_an_option_for_every_field_with_its_default():
    assert defaults_of(TRAINING) == field_defaults(TrainJob)
    # named without a value it is the newest, which the job finds
    assert TRAINING["store"].parse("") is None


def test_the_options_of_one_command_have_its_configurations_defaults():
    defaults = {name: parameter.default for name, parameter in inspect.signature(pretrain).parameters.items()}
    expected = field_defaults(GroundingJob)
    assert {name: defaults[name] for name in expected} == expected


SETTINGS = {
    "count": Setting(str, typer.Option(metavar="N", help="How many."), "1", int),
    "names": Setting(list[str] | None, typer.Option("--name"), None, lambda names: tuple(names or ())),
}


@pytest.fixture
def called():
    """A command that takes both settings and an option of its own, and what it was called with."""
    calls = []
    app = typer.Typer()

    @app.command()
    @takes(SETTINGS, "count", "names", helps={"count": "How many here."})
    def command(chosen, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        calls.append((chosen, loud))

    def call(*words):
        app(list(words), standalone_mode=False)
        return calls[-1]

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ({"count": 1, "names": ()}, False)),
        (("--count", "3", "--loud"), ({"count": 3, "names": ()}, True)),
        (("--name", "a", "--name", "b"), ({"count": 1, "names": ("a", "b")}, False)),
    ],
)
def test_settings_come_parsed_beside_a_commands_own_options(called, words, expected):
    assert called(*words) == expected


def test_a_command_may_say_something_else_about_a_setting():
    annotation = inspect.signature(takes(SETTINGS, "count", helps={"count": "How many here."})(print_nothing))
    assert annotation.parameters["count"].annotation.__metadata__[0].help == "How many here."
    assert SETTINGS["count"].option.help == "How many."


def print_nothing(chosen) -> None:
    """A command without options of its own."""
