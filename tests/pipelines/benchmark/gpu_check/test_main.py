"""The command, as far as it goes without a GPU: up to the first kernel, and on toy shapes on a CPU."""

import json
import sys

import pytest
import torch

from mettle_cache.pipelines.benchmark.gpu_check import extract, kernels, online, step
from mettle_cache.pipelines.benchmark.gpu_check.__main__ import NO_GPU, main
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting

ON_CPU = Setting(device=torch.device("cpu"), tiny=True, repeats=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["kernels"]) == 2
    assert capsys.readouterr().err == f"error: {NO_GPU}\n"


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["kernel"])
    assert stopped.value.code == 2
    assert "there is no part 'kernel'; the parts are tests, kernels, step, extract, online" in capsys.readouterr().err


def test_figures_are_printed_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "CODECS", ("int8",))
    # missing for one part: it is skipped, and the other runs
    monkeypatch.setitem(sys.modules, "timm", None)
    out = tmp_path / "new" / "figures.json"
    assert main(["kernels", "online", "--device", "cpu", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["tiny"] is True
    assert document["machine"]["device"] == "cpu"
    first, second = document["parts"]
    assert (first["state"], second["state"]) == ("done", "skipped")
    assert first["findings"][0]["what"].startswith("int8 ")
    assert "1 of 2 parts done, 1 skipped" in capsys.readouterr().out


def test_a_step_from_every_tier(monkeypatch):
    monkeypatch.setattr(step, "CODECS", ("int8",))
    found = list(step.run(ON_CPU))
    assert [one.what for one in found] == ["int8 from memory, batch 4", "int8 from disk, batch 4"]
    assert all(one.value > 0 for one in found)


def test_half_precision_has_an_error(monkeypatch):
    found = {one.what: one.value for one in extract.run(ON_CPU)}
    bfloat16, float16 = (found[f"{name} visual/s1, worst layer's error"] for name in extract.HALF)
    # eight bits of a number against eleven
    assert 1e-4 < float16 < bfloat16 < 0.05
    assert found["with int8 codes in host memory, bfloat16"] > 0


def test_online_beside_the_cache():
    backbones, codes = online.run(ON_CPU)
    assert backbones.value > 0
    assert codes.value > 0
    assert "are the backbones" in backbones.note
