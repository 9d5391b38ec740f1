import json
import subprocess
import sys

import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_config import RunConfig, StoreReference
from mettle_cache.pipelines.train.run_folder import RunFolder, claim_run, claim_runs, find_runs


def config(*overrides, seed=0, select_on="val", digest="k1", path="/data/a.zarr"):
    return RunConfig(
        recipe=load_recipe("ave-small", overrides).to_json(),
        seed=seed,
        select_on=select_on,
        store=StoreReference(path=path, key_digest=digest, dataset="ave", codec="int8"),
    )


def test_a_new_folder_gets_the_configuration_back_exactly(tmp_path):
    wanted = config("lcd.k_visual=[2,1]")
    with claim_run(tmp_path / "a" / "b", wanted, resume=False) as folder:
        assert folder.read_config() == wanted
    assert RunFolder(tmp_path / "a" / "b").read_config().load_recipe() == load_recipe(
        "ave-small", ["lcd.k_visual=[2,1]"]
    )


def test_a_run_is_not_overwritten(tmp_path):
    with claim_run(tmp_path, config(), resume=False):
        pass
    with (
        pytest.raises(RunError, match=r"a run is here already\n  next: add --resume"),
        claim_run(tmp_path, config(), resume=False),
    ):
        pass


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (config("train.epochs=3"), r"train\.epochs = 20 there, 3 was asked for: it can only get longer"),
        (config(seed=1), "seed = 0 there, 1 was asked for"),
        (config(select_on="test"), "select_on = val there, test was asked for"),
        (config(digest="k2"), "store = k1 there, k2 was asked for"),
        (config("lcd.heads=2", digest="k2"), r"lcd\.heads = 8 there, 2 was asked for; store = k1 there, k2 was"),
        (config("method=linear"), "method = lcd there, linear was asked for; lcd.dim = 256 there, not set was asked"),
    ],
)
def test_resuming_another_run_is_refused_with_what_differs(tmp_path, other, what):
    with claim_run(tmp_path, config(), resume=False):
        pass
    with pytest.raises(RunError, match=f"the run here is another one: {what}"), claim_run(tmp_path, other, resume=True):
        pass


def test_several_folders_are_claimed_together_or_not_at_all(tmp_path):
    with claim_runs([(tmp_path / name, config(seed=seed)) for seed, name in enumerate("ab")], resume=False) as folders:
        assert [folder.read_config().seed for folder in folders] == [0, 1]
    claims = [(tmp_path / "new", config()), (tmp_path / "b", config(seed=1))]
    with pytest.raises(RunError, match="b: a run is here already"), claim_runs(claims, resume=False):
        pass
    assert not (tmp_path / "new").exists()


def test_runs_are_found_up_to_two_levels_down_in_the_order_of_their_numbers(tmp_path):
    names = ["a/seed-2", "a/seed-10", "b", "seed-9", "seed-10"]
    for name in [*reversed(names), "too/deep/down"]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    assert find_runs(tmp_path) == [tmp_path / name for name in names]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    with pytest.raises(RunError, match="there is no run here"):
        find_runs(tmp_path / "nothing")


def test_a_store_that_moved_is_the_same_store(tmp_path):
    with claim_run(tmp_path, config(), resume=False):
        pass
    with claim_run(tmp_path, config(path="/elsewhere/a.zarr"), resume=True) as folder:
        assert folder.read_config() == config(path="/elsewhere/a.zarr")


def test_a_run_may_get_longer(tmp_path):
    with claim_run(tmp_path, config(), resume=False):
        pass
    with claim_run(tmp_path, config("train.epochs=30"), resume=True) as folder:
        assert folder.read_config() == config("train.epochs=30")
        assert folder.read_config().identity == config().identity != config(seed=1).identity


def test_resume_without_a_run_begins_one(tmp_path):
    with claim_run(tmp_path / "new", config(), resume=True) as folder:
        assert folder.config.is_file()


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(RunError, match=r"not empty and holds no run \(thesis.tex\)"),
        claim_run(tmp_path, config(), resume=True),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with (
        pytest.raises(UsageError, match="the run's folder is a file"),
        claim_run(tmp_path / "x", config(), resume=False),
    ):
        pass


def test_one_process_at_a_time(tmp_path):
    script = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(RunError, match="another process is training or evaluating"),
            claim_run(tmp_path, config(), resume=False),
        ):
            pass
    finally:
        holder.communicate(b"", timeout=30)
    with claim_run(tmp_path, config(), resume=False) as folder:
        assert folder.config.is_file()


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"format": "mettle-run-9"}', "{" * 10_000, json.dumps({"recipe": {}, "seed": "x"})]
)
def test_damaged_configurations_are_errors(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config.json: not a run configuration"):
        RunFolder(tmp_path).read_config()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match="there is no run here"):
        RunFolder(tmp_path).read_config()


def test_results_gain_sections(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_result() == {}
    folder.update_result({"training": {"a": 1}})
    folder.update_result({"evaluation": {"test": {}}})
    assert folder.read_result() == {"training": {"a": 1}, "evaluation": {"test": {}}}


def test_a_damaged_or_huge_result_is_an_error(tmp_path):
    folder = RunFolder(tmp_path)
    folder.result.write_text("{")
    with pytest.raises(RunError, match=r"result.json: damaged .*\n  next: delete the file"):
        folder.read_result()
    folder.result.write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(RunError, match="larger than 16777216 bytes"):
        folder.read_result()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    with claim_run(tmp_path, config(), resume=False):
        pass
    for name in ("last.safetensors.123.partial", ".tmpAb12Cd", "best.safetensors", "notes.txt"):
        (tmp_path / name).write_text("x")
    with claim_run(tmp_path, config(), resume=True):
        names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {".lock", "config.json", "best.safetensors", "notes.txt"}
