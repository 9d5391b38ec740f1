"""The main job through the commands, with nothing given that defaults can serve, and the mistakes of a first day."""

import json
import shutil
from pathlib import Path

import pytest

from mettle_cache.cli.main import run
from mettle_cache.store import TokenStore
from tests.cli.conftest import BACKBONES, EXTRACT
from tests.pipelines.extraction import tree


def test_from_media_to_an_accuracy_with_defaults(folder, mettle):
    code, extracted, err = mettle(*EXTRACT)
    assert code == 0
    store = Path("cache/ave-test_vit@64-test_efficientnet@64.zarr")
    assert extracted["store"] == str(store)
    assert (extracted["clips"], extracted["written"], extracted["failed"]) == (12, 12, 0)
    assert "clips/s" in err or "12 clips in" in err
    assert "RANDOM" in err

    code, verified, _ = mettle("verify", store, "--deep")
    assert code == 0
    assert verified["ok"]

    code, facts, _ = mettle("info", store)
    assert code == 0
    assert (facts["clips"], facts["codec"], facts["finished"]) == (12, "int8", True)

    code, trained, _ = mettle("train", "--from-cache", "--set", "train.epochs=1", "--set", "lcd.heads=1")
    assert code == 0
    assert trained["epochs"] == 1

    code, scored, _ = mettle("evaluate", trained["out"])
    assert code == 0
    assert 0 <= scored["scores"]["accuracy"] <= 100
    assert scored["samples"] == 3


def test_human_words_say_where_what_and_what_next(folder, capsys):
    assert run([*EXTRACT]) == 0
    out = capsys.readouterr().out
    for words in ("12 written", "frames/s", "resident set", "mettle train --from-cache cache/"):
        assert words in out


def test_two_codecs_live_side_by_side(folder, mettle):
    names = set()
    for codec in ("int8", "int4"):
        code, report, _ = mettle(*EXTRACT, "--codec", codec, "--layers", "last:1")
        assert code == 0
        names.add(report["store"])
        assert TokenStore.open(Path(report["store"])).codec == codec
    assert len(names) == 2


def test_parts_make_the_whole(data, whole, tmp_path, mettle):
    out = tmp_path / "s.zarr"
    code, report, _ = mettle(*EXTRACT, "--root", data, "--out", out, "--part", "1/2")
    assert (code, report["finished"], report["pending"]) == (0, False, 6)
    code, unfinished, _ = mettle("train", "--from-cache", out)
    assert code == 1
    assert unfinished["error"]["kind"] == "StoreUnfinishedError"
    code, report, _ = mettle(*EXTRACT, "--root", data, "--out", out, "--part", "2/2")
    assert (code, report["finished"]) == (0, True)
    assert tree(out) == tree(whole)


def test_a_second_run_has_nothing_to_do(data, whole, mettle):
    code, report, _ = mettle(*EXTRACT, "--root", data, "--out", whole)
    assert (code, report["written"], report["skipped"]) == (0, 0, 12)


def test_another_key_is_refused(data, whole, mettle):
    code, document, _ = mettle(*EXTRACT, "--root", data, "--out", whole, "--seed", "9")
    assert code == 1
    assert document["error"]["kind"] == "StoreKeyError"
    assert "digest" in document["error"]["message"]
    assert document["error"]["hint"]


def an_mp4(root):
    return sorted((root / "AVE").glob("*.mp4"))[0]


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100], ids=["empty", "garbage"])
def test_an_unreadable_mp4_is_listed_then_left_out(folder, mettle, content):
    video = an_mp4(folder / "data/AVE")
    video.write_bytes(content)
    code, document, _ = mettle(*EXTRACT)
    assert code == 1
    assert video.name in document["error"]["message"]
    assert "--skip-missing" in document["error"]["hint"]
    assert not (folder / "cache").exists()

    code, report, err = mettle(*EXTRACT, "--skip-missing")
    assert code == 0
    assert (report["written"], report["failed"], report["finished"]) == (11, 1, True)
    assert video.stem in report["failures"]
    assert "not comparable" in err
    assert TokenStore.open(Path(report["store"])).failed.keys() == {video.stem}


def test_an_mp4_that_breaks_off_fails_alone(folder, mettle):
    video = an_mp4(folder / "data/AVE")
    data = bytearray(video.read_bytes())
    # the tables stay, the pictures do not
    first = data.index(b"mdat") + 4
    data[first + 200 : first + len(data) // 2] = bytes(len(data) // 2 - 200)
    video.write_bytes(data)
    code, report, _ = mettle(*EXTRACT)
    assert code == 1
    named = report.get("failures") or report["error"]["message"]
    assert video.stem in named


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["extract", "--dataset", "ave", "--root", "no/such"], 2, "no/such does not exist"),
        (["extract", "--dataset", "ave", "--root", "empty"], 1, "no Annotations.txt"),
        (["extract", "--dataset", "aev"], 2, "no data set is called 'aev'"),
        (["extract"], 2, "--dataset"),
        (["extract", "--dataset", "ave", "--codek", "int4"], 2, "--codec"),
        (["extract", "--dataset", "ave", "--part", "3/2"], 2, "must be i/n"),
        (["extract", "--dataset", "ave", *BACKBONES, "--layers", "last:99"], 2, "N in last:N"),
        (["extract", "--dataset", "ave", "--visual", "test_vit=random"], 1, "HTSAT_AudioSet_Saved"),
        (["extract", "--dataset", "ave", "--visual", "test_vit=nowhere.pth", "--audio", "shared"], 1, "nowhere.pth"),
        (["extract", "--dataset", "ave", "--visual", "swinv2_1=random"], 2, "unknown backbone"),
        (["extract", "--dataset", "ave", *BACKBONES, "--workers", "2", "--scheduler", "tcp://x:1"], 2, "one of them"),
        (["verify", "no/store"], 2, "no token store at no/store"),
        (["info", "data/AVE"], 2, "no token store"),
        (["train", "--from-cache"], 2, "no finished store under cache"),
        (["train", "--from-cache", "--recipe", "ave-swin-htsat"], 2, "no finished store"),
        (["train", "--from-cache", "no/store"], 2, "no/store"),
        (["evaluate", "no/run"], 1, "no/run"),
        (["plan", "--dataset", "ave", "--root", "no/such"], 2, "no/such"),
    ],
)
def test_first_day_mistakes(folder, mettle, monkeypatch, arguments, code, words):
    monkeypatch.setenv("METTLE_WEIGHTS", "nowhere")
    (folder / "empty").mkdir()
    got, document, err = mettle(*arguments)
    assert words in document["error"]["message"] + str(document["error"]["hint"])
    assert got == code == document["error"]["exit_code"]
    assert document["error"]["message"].splitlines()[0] in err


def test_plan_bills_what_extract_then_writes(folder, mettle):
    code, plan, _ = mettle("plan", "--dataset", "ave", *BACKBONES, "--no-measure")
    assert code == 0
    _, report, _ = mettle(*EXTRACT)
    assert plan["chosen"]["nbytes"] == report["nbytes"]
    assert plan["out"] == report["store"]
    shards = [path for path in Path(report["store"]).rglob("c.*") if path.is_file()]
    assert plan["chosen"]["files"] == len(shards) + report["clips"]


def test_doctor_ends_with_the_next_command(folder, mettle):
    code, document, _ = mettle("doctor", "--no-measure")
    assert code == 0
    assert document["next_command"].startswith("mettle plan --dataset ave")


def test_a_damaged_store_is_found_repaired_and_made_whole(data, whole, tmp_path, mettle):
    store = shutil.copytree(whole, tmp_path / "s.zarr")
    shard = sorted(path for path in (store / "visual" / "s1").glob("c.*"))[3]
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    code, report, _ = mettle("verify", store, "--deep")
    assert code == 1
    assert shard.name in json.dumps(report["problems"])
    code, report, _ = mettle("verify", store, "--deep", "--repair")
    assert (code, report["forgotten"]) == (1, 1)
    code, report, _ = mettle(*EXTRACT, "--root", data, "--out", store)
    assert (code, report["written"], report["skipped"]) == (0, 1, 11)
    assert tree(store) == tree(whole)
