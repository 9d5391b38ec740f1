"""Help pages: every summary whole, options in groups, values named, lines that are examples left alone."""

from typing import Annotated

import pytest
import typer
import typer.main

from mettle_cache.cli.help_page import GENERAL, App
from mettle_cache.cli.main import COMMANDS, SECTIONS, build_app, run

APP = typer.main.get_command(build_app())


def page(capsys, *words):
    assert run([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_every_command_is_in_one_section_with_its_whole_summary(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = " ".join(page(capsys).split())
    assert "..." not in words.replace("[ARGS]...", "")
    for title in SECTIONS:
        assert f"{title}:" in words
    for name in COMMANDS:
        sentence = " ".join(APP.commands[name].help.split("\n\n")[0].split()).split(". ")[0].removesuffix(".")
        assert f"{name} {sentence}" in words
    assert set(APP.commands) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_all_commands_take_comes_last(name):
    command = APP.commands[name]
    text = command.get_help(command.make_context(name, [], resilient_parsing=True, help_option_names=["-h", "--help"]))
    general = text.partition(f"\n{GENERAL}:\n")[2].partition("\n\n")[0]
    assert {"--json", "--debug", "-h,"} <= {line.split()[0] for line in general.splitlines() if line.strip()}


@pytest.fixture
def shown(capsys, monkeypatch):
    """The page of a command with one option of every kind, in a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    app = App()

    @app.command("try", epilog="Examples:\n\n\b\nmettle try --name " + 80 * "x" + " \\\n    --times 3\n")
    def command(
        runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs.")],
        name: Annotated[str, typer.Option(help="It goes on-and-on-and-on-until it-does-not-fit here-any-more.")],
        times: Annotated[int, typer.Option(min=1, max=9, rich_help_panel="How often")] = 1,
        seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1)] = 0,
        fast: Annotated[bool, typer.Option("--fast/--slow", rich_help_panel="How often")] = True,
    ) -> None:
        """Try it."""

    app(["--help"], prog_name="mettle try", standalone_mode=False)
    return capsys.readouterr().out


def test_the_parts_of_a_page(shown):
    assert shown.startswith("Usage: mettle try [OPTIONS] RUN...\n")
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments:", "Options:", "How often:", "Examples:"]
    assert "  --times N        [default: 1; 1 to 9]\n" in shown
    assert "  --fast / --slow  [default: fast]\n" in shown
    assert "  --seed N         [default: 0; at least 0]\n" in shown
    assert "on-and-on-and-on-until" in shown


def test_an_example_is_as_it_was_written(shown):
    assert f"Examples:\n  mettle try --name {80 * 'x'} \\\n      --times 3\n" in shown
