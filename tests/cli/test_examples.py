"""Every command that a help text, a document, a recipe or a message shows is one that can be given."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main

from mettle_cache.cli.main import build_app
from mettle_cache.cli.output import MODE
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.spec import combine_variants
from mettle_cache.pipelines.train.training import default_run_folder

ROOT = Path(__file__).parents[2]
APP = typer.main.get_command(build_app())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(path for folder in ("mettle_cache", "pipelines", "cli") for path in (ROOT / folder).rglob("*.py"))
# a line of a block, of a recipe's head, or words between backticks, which may go on in the next line
LINE = re.compile(r"^(?: {4}|#   )?(mettle [a-z].*)$", re.MULTILINE)
INLINE = re.compile(r"`(mettle [a-z][^`]*)`")


def helps(command, words=("mettle",)):
    yield " ".join(words), command.epilog or ""
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, (*words, name))


def joined(text):
    """``text`` with every line that ends in a backslash and the next one in one line, as a shell reads them."""
    return re.sub(r"\\\n *", "", text)


def shown():
    """Where a command is shown, and the command."""
    for name, epilog in helps(APP):
        yield from ((name, line) for line in LINE.findall(joined(epilog)))
    for path in [*DOCUMENTS, *(ROOT / "pipelines" / "recipes").glob("*.toml")]:
        yield from ((path.name, line) for line in LINE.findall(joined(path.read_text("utf-8"))))
    for path in DOCUMENTS:
        if path.name != "CHANGELOG.md":  # what it says of older versions was true then
            yield from ((path.name, " ".join(line.split())) for line in INLINE.findall(path.read_text("utf-8")))
    for path in SOURCES:
        literal = re.sub(r'"\n\s*f?"', "", path.read_text("utf-8"))
        yield from ((path.name, " ".join(re.sub(r"\{[^}]*\}", "X", line).split())) for line in INLINE.findall(literal))


EXAMPLES = sorted(set(shown()))


def parse(words):
    """The options of a command line, by name; raises as the command itself would."""
    command = APP
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, command.make_context("mettle", list(words)).params


@pytest.mark.parametrize(("where", "line"), EXAMPLES)
def test_a_command_that_is_shown_can_be_given(monkeypatch, where, line):
    monkeypatch.setattr(MODE, "json", False)
    words = shlex.split(re.split(r" [>|] ?", line)[0], comments=True)[1:]
    if words[1:]:
        command, options = parse(words)
    else:  # prose that names a command
        command, options = APP.commands[words[0]], {"recipe": None}
    assert command is not APP, f"no such command: {line}"
    if command.name in ("train", "sweep"):
        recipe = options["recipe"] or ("music-avqa-small" if "init_grounding" in line else "ave-small")
        if recipe.endswith(".toml"):  # the reader's own file
            recipe = "ave-small"
        sets = options.get("overrides") or options.get("set_") or []
        for variant in combine_variants(sets, options.get("variant") or []):
            load_recipe(recipe, variant.overrides)


def test_examples_are_found_everywhere():
    places = {where for where, _ in EXAMPLES}
    assert {"mettle export", "mettle bench read", "README.md", "ave-swin-htsat.toml", "design.md"} <= places
    assert len(EXAMPLES) > 80


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_the_runs_of_the_examples_are_those_that_train_makes(command):
    store = SimpleNamespace(path="cache/ave-swinv2_l-htsat.zarr")
    run = default_run_folder(store, load_recipe("ave-swin-htsat"), 0)
    assert f"mettle {command} {run}\n" in dict(helps(APP))[f"mettle {command}"]


@pytest.mark.parametrize("columns", [80, 60])
def test_no_help_breaks_an_example_or_is_wider_than_a_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, epilog in helps(APP):
        command = APP
        for word in name.split()[1:]:
            command = command.commands[word]
        page, _, examples = command.get_help(command.make_context(name, [], resilient_parsing=True)).partition(
            "Examples:\n"
        )
        assert max(map(len, page.splitlines())) <= columns
        assert max(map(len, examples.splitlines()), default=0) <= 80
        for line in LINE.findall(epilog):
            assert f"  {line}\n" in f"{examples}\n"
