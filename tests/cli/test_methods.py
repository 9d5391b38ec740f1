"""``mettle methods``: the table, one method with its options, and what it refuses."""

import json

import pytest

from mettle_cache.cli.main import run


def test_all_methods_are_a_table(capsys):
    assert run(["methods"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["name", "layers", "method_m", "head_m", "tasks"]
    for words in (
        "the last (1 + 1)",
        "direct: the last layer's mean token",
        "recipe ave-swin-htsat",
        "(Mettle, section 3.2)",
    ):
        assert words in out


def test_one_method_has_its_options_with_what_they_mean(capsys):
    assert run(["methods", "linear"]) == 0
    out = capsys.readouterr().out
    assert "linear.dim          256        1 to 8192 or none" in out
    assert "init: How the linear starts" in out
    assert "590,336, with the decoder 1,005,909 (avel on swinv2_l and htsat" in " ".join(out.split())


def test_the_document_has_the_same(capsys):
    assert run(["methods", "lcd", "--task", "avvp", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (info,) = document["methods"]
    assert (document["task"], info["name"], info["layers"]) == ("avvp", "lcd", "all (4 + 4)")
    options = {option["key"]: option for option in document["options"]["lcd"]}
    assert options["pretrained_branch"]["default"] == "linear"
    assert options["out_proj"]["default"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods", "lcdd"], "no method is called 'lcdd'\n  next: did you mean lcd?"),
        (["methods", "--task", "ave"], "no task is called 'ave'"),
        (["methods", "--backbones", "swinv2_l"], "--backbones swinv2_l: must be two names"),
        (["methods", "--backbones", "swinv2_l,nosuch"], "nosuch"),
    ],
)
def test_what_is_refused(capsys, arguments, message):
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
