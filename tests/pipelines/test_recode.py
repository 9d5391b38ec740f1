"""A store in another codec, beside what encoding the tokens anew gives."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mettle_cache.errors import (
    ConfigError,
    NoRoomError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreKeyError,
    StoreMissingError,
    StoreUnfinishedError,
    UsageError,
)
from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.pipelines.recode import run as recoding
from mettle_cache.pipelines.signals import InterruptedRunError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, verify_store
from mettle_cache.store.format.codecs import CODECS, encode_layers, get_codec
from tests.pipelines.listener import Listener
from tests.store.tiny import LAYERS, SEGMENTS, clip_tokens, contents, make_spec, raw_tokens, source, write_store
from tests.store.toy_codecs import SIX, SixBitPilot

ROOT = Path(__file__).parents[2]
CLIPS = 6


@pytest.fixture(scope="module", autouse=True)
def installed():
    CODECS.register(SIX)
    yield
    CODECS.unregister(SIX.name)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """A float16 store; one of its clips has failed."""
    path = tmp_path_factory.mktemp("floats") / "s.zarr"
    write_store(path, make_spec("float16", CLIPS), failed=[4])
    return path


def into(store, codec, out, **changes):
    return recode(RecodeConfig(store=store, codec=codec, out=out, **changes))


@pytest.fixture(scope="module")
def six(installed, floats, tmp_path_factory):
    path = tmp_path_factory.mktemp("six") / "s.zarr"
    assert into(floats, "six", path).ok
    return path


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_the_tokens_are_those_of_the_codec_made_from_what_the_store_has(floats, tmp_path, codec):
    report = into(floats, codec, tmp_path / "s.zarr")
    assert (report.ok, report.finished, report.written, report.failed) == (True, True, CLIPS - 1, 1)
    assert verify_store(tmp_path / "s.zarr", deep=True).ok
    old, new = TokenStore.open(floats), TokenStore.open(tmp_path / "s.zarr")
    assert (new.clips, new.failed, new.made_of) == (old.clips, old.failed, old.made_of)
    assert new.samples.equals(old.samples)
    assert new.vocabulary == old.vocabulary
    for clip in set(range(CLIPS)) - {4}:
        expected = encode_layers({name: x.half().float() for name, x in raw_tokens(clip).items()}, get_codec(codec))
        for name, tokens in new[clip].items():
            assert torch.equal(tokens.codes, expected[name].codes)
            assert torch.equal(tokens.scale, expected[name].scale)


def test_the_key_says_what_it_was_recoded_from_and_extracting_into_it_is_refused(floats, tmp_path):
    into(floats, "int8", tmp_path / "a.zarr")
    key = describe_store(tmp_path / "a.zarr")["key"]
    assert key["extraction"] == {**make_spec().key, "recoded": ["float16"]}
    with pytest.raises(StoreKeyError, match="recoded"):
        StoreWriter.create_or_resume(tmp_path / "a.zarr", make_spec("int8", CLIPS))
    into(tmp_path / "a.zarr", "float16", tmp_path / "b.zarr")
    described = describe_store(tmp_path / "b.zarr")
    assert described["key"]["extraction"]["recoded"] == ["float16", "int8"]
    assert described["provenance"]["recoded"] == (
        "from float16 by mettle recode --codec int8; from int8 by mettle recode --codec float16"
    )


@pytest.mark.parametrize("codec", ["float16", "int8", "int4"])
def test_with_the_codec_that_it_has_it_is_a_copy_that_an_extraction_can_go_on_with(tmp_path, codec):
    write_store(tmp_path / "a.zarr", make_spec(codec, CLIPS))
    assert into(tmp_path / "a.zarr", codec, tmp_path / "b.zarr").ok
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


@pytest.mark.parametrize("codec", ["float16", "int8", "int4"])
def test_a_copy_of_an_old_store_has_todays_format_and_the_same_bytes_of_tokens(tmp_path, codec):
    old, new = ROOT / "tests/store/golden/v1" / f"{codec}.zarr", tmp_path / "s.zarr"
    assert into(old, codec, new).ok
    assert (describe_store(old)["format"], describe_store(new)["format"]) == (1, 2)
    extraction = describe_store(new)["key"]["extraction"]
    # int4 was encoded otherwise then: no extraction goes on with codes of two encoders in one store
    assert extraction.pop("recoded", []) == (["int4, version 1"] if codec == "int4" else [])
    assert extraction == describe_store(old)["key"]["extraction"]
    first, second = TokenStore.open(old), TokenStore.open(new, check="always")
    assert (first.clips, first.failed, first.made_of) == (second.clips, second.failed, second.made_of)
    assert first.samples.equals(second.samples)
    for clip in first.made_of:
        for name, tokens in first[clip].items():
            assert torch.equal(tokens.codes, second[clip][name].codes)
            assert all(torch.equal(part, second[clip][name].parts[key]) for key, part in tokens.parts.items())


def test_a_copy_may_have_other_shards(tmp_path):
    write_store(tmp_path / "a.zarr", make_spec("int8", CLIPS, clips_per_shard=2))
    into(tmp_path / "a.zarr", "int8", tmp_path / "b.zarr")
    into(tmp_path / "a.zarr", "int8", tmp_path / "c.zarr", clips_per_shard=3)
    keys = [describe_store(tmp_path / f"{name}.zarr")["key"]["clips_per_shard"] for name in "abc"]
    assert keys == [2, 2, 3]
    for clip in range(CLIPS):
        one, other = (TokenStore.open(tmp_path / f"{name}.zarr")[clip] for name in "ac")
        assert all(torch.equal(tokens.codes, other[name].codes) for name, tokens in one.items())
    with pytest.raises(ConfigError, match="--clips-per-shard 0: must be from 1"):
        into(tmp_path / "a.zarr", "int8", tmp_path / "d.zarr", clips_per_shard=0)


def test_static_arrays_come_from_a_pilot_over_training_clips_of_the_store(floats, six):
    assert verify_store(six, deep=True).ok
    pilot = get_codec("six").pilot(LAYERS)
    # every clip is one of training; the fourth that can be read is clip 3
    for clip in range(3):
        pilot.add({name: x.half().float() for name, x in raw_tokens(clip).items()})
    expected = pilot.finish()
    store = TokenStore.open(six)
    for name, tokens in store[5].items():
        assert torch.equal(tokens.static["levels"], expected[name]["levels"])
        assert (tokens.floats() - raw_tokens(5)[name]).norm() < 0.1 * raw_tokens(5)[name].norm()


def test_klt_of_float16_is_klt_of_the_tokens_where_float16_rounds_nothing(tmp_path):
    """The oracle: the pilot and the codec by themselves, over training clips that have tokens."""
    spec = make_spec("float16", CLIPS)
    ids = [f"clip-{clip}" for clip in range(CLIPS)]
    # the fifth clip is not one of training, the third has failed
    samples = pa.table({"row": range(CLIPS), "clip": ids, "split": ["train"] * 5 + ["test"]})
    write_store(tmp_path / "a.zarr", replace(spec, samples=samples), failed=[2])
    assert into(tmp_path / "a.zarr", "klt1.5", tmp_path / "b.zarr").ok
    codec, training = get_codec("klt1.5"), [0, 1, 3, 4]
    pilot = codec.pilot(LAYERS)
    for place, segments in pilot.choose([ids[clip] for clip in training], SEGMENTS):
        tokens = raw_tokens(training[place])
        for segment in segments:
            pilot.add({name: x[segment : segment + 1].half().float() for name, x in tokens.items()})
    static = pilot.finish()
    store = TokenStore.open(tmp_path / "b.zarr")
    for clip in (0, 1, 3, 4, 5):
        tokens = {name: x.half().float() for name, x in raw_tokens(clip).items()}
        for name, expected in encode_layers(tokens, codec, LAYERS, static).items():
            stored = store[clip][name]
            assert torch.equal(stored.codes, expected.codes)
            assert all(torch.equal(stored.parts[part], expected.parts[part]) for part in expected.parts)
            assert all(torch.equal(stored.static[part], static[name][part]) for part in static[name])


def test_a_copy_and_other_stores_take_the_arrays_that_are_there(floats, six, tmp_path, monkeypatch):
    monkeypatch.setattr(SixBitPilot, "add", lambda *_: pytest.fail("another pilot"))
    into(six, "six", tmp_path / "copy.zarr")
    assert contents(tmp_path / "copy.zarr") == contents(six)
    into(floats, f"six={six}", tmp_path / "other.zarr")
    other = contents(tmp_path / "other.zarr")
    assert {name: data for name, data in other.items() if name.startswith("static")} == {
        name: data for name, data in contents(six).items() if name.startswith("static")
    }
    assert describe_store(tmp_path / "other.zarr")["provenance"]["recoded"].endswith(f"--codec six={six.name}")
    assert str(six.parent) not in (tmp_path / "other.zarr" / "zarr.json").read_text()


def test_what_was_left_unfinished_goes_on_to_the_same_bytes(floats, six, tmp_path, monkeypatch):
    assert not into(floats, "six", tmp_path / "s.zarr", part=(0, 2)).finished
    monkeypatch.setattr(SixBitPilot, "add", lambda *_: pytest.fail("a second pilot"))
    report = into(floats, "six", tmp_path / "s.zarr")
    assert (report.finished, report.written, report.skipped) == (True, 2, 3)
    assert contents(tmp_path / "s.zarr") == contents(six)
    again = into(floats, "six", tmp_path / "s.zarr")
    assert (again.written, again.skipped) == (0, CLIPS - 1)


def test_a_clip_that_was_damaged_meanwhile_is_recoded_again(floats, six, tmp_path):
    into(floats, "six", tmp_path / "s.zarr", part=(0, 2))
    shard = TokenStore.open(tmp_path / "s.zarr", allow_unfinished=True).clip_files(1)[0]
    shard.write_bytes(shard.read_bytes()[::-1])
    assert into(floats, "six", tmp_path / "s.zarr").written == 3
    assert contents(tmp_path / "s.zarr") == contents(six)


def test_a_clip_that_was_extracted_again_since_is_recoded_again(tmp_path):
    old, new = tmp_path / "a.zarr", tmp_path / "b.zarr"
    write_store(old, make_spec("float16", CLIPS))
    into(old, "int8", new)
    with StoreWriter.join(old) as writer:
        writer.forget({2: source(2)})
        writer.write_clip(2, clip_tokens(9, "float16"), source=source(9))
        writer.finish()
    listener = Listener()
    report = recode(RecodeConfig(store=old, codec="int8", out=new), listener)
    assert (report.written, report.skipped) == (1, CLIPS - 1)
    assert "recoded again: 1" in " ".join(listener.notes)
    store = TokenStore.open(new)
    assert store.made_of[2] == source(9)
    assert torch.equal(store[2]["audio/s1b01"].codes, expected_codes(9)["audio/s1b01"].codes)


def expected_codes(clip):
    return encode_layers({name: x.half().float() for name, x in raw_tokens(clip).items()}, get_codec("int8"))


def test_what_a_codec_cannot_hold_is_a_clip_without_tokens(tmp_path):
    spec = make_spec("int8", 3)
    with StoreWriter.create_or_resume(tmp_path / "a.zarr", spec) as writer:
        for clip in writer.pending():
            tokens = {name: x * (1e5 if clip == 1 else 1) for name, x in raw_tokens(clip).items()}
            writer.write_clip(clip, encode_layers(tokens, get_codec("int8")), source=source(clip))
        writer.finish()
    report = into(tmp_path / "a.zarr", "float16", tmp_path / "b.zarr")
    assert (report.ok, report.finished, report.failed) == (False, True, 1)
    assert "codec float16 takes finite values" in report.failures["clip-1"]
    assert "clip-1" in TokenStore.open(tmp_path / "b.zarr").failed


def test_damage_to_the_source_is_found_and_named(floats, tmp_path):
    path = shutil.copytree(floats, tmp_path / "a.zarr")
    shard = TokenStore.open(path).clip_files(2)[0]
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorruptError, match="clip-2"):
        into(path, "int8", tmp_path / "b.zarr")
    shutil.copyfile(TokenStore.open(floats).clip_files(2)[0], shard)
    assert into(path, "int8", tmp_path / "b.zarr").finished


@pytest.mark.parametrize(
    ("codec", "out", "kind", "message"),
    [
        ("int5", "b.zarr", UsageError, "no codec is called 'int5'"),
        ("int8=a.zarr", "b.zarr", UsageError, "codec int8 has no static arrays to take from"),
        ("six=nowhere", "b.zarr", StoreMissingError, "there is no token store at .*nowhere"),
        ("six=a.zarr", "b.zarr", UsageError, "a.zarr is written in float16: it has no static arrays of codec six"),
        ("six=", "b.zarr", ConfigError, "the codec 'six=' is none"),
        ("int8", "a.zarr", UsageError, "is the store itself"),
        ("int8", "a.zarr/b.zarr", UsageError, "lie in each other"),
        ("int8", "other", StoreError, "other holds other things and is not a token store: notes.txt"),
        ("int8", "d.zarr", StoreKeyError, "was made by another configuration"),
    ],
)
def test_what_cannot_be_is_refused(floats, tmp_path, monkeypatch, codec, out, kind, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(floats, "a.zarr")
    write_store(Path("d.zarr"), make_spec("int8", 2))
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    before = contents(tmp_path)
    with pytest.raises(kind, match=message):
        into(Path("a.zarr"), codec, Path(out))
    assert contents(tmp_path) == before


def test_arrays_of_other_layers_are_refused(floats, six, tmp_path):
    write_store(tmp_path / "a.zarr", make_spec("float16", 2, layers=LAYERS[:3]))
    with pytest.raises(UsageError, match="of other layers: it has visual/s2b02, visual/s2b03, audio/s1b01, too"):
        into(tmp_path / "a.zarr", f"six={six}", tmp_path / "b.zarr")
    wider = [replace(LAYERS[0], width=8), replace(LAYERS[1], width=8), *LAYERS[2:]]
    write_store(tmp_path / "c.zarr", make_spec("float16", 2, layers=wider))
    with pytest.raises(UsageError, match="of other layers: visual/s1b01 has other sizes or cells there"):
        into(tmp_path / "c.zarr", f"six={six}", tmp_path / "d.zarr")


def test_a_copy_takes_no_other_arrays_than_its_own(six, tmp_path):
    write_store(tmp_path / "a.zarr", make_spec("float16", 2))
    into(tmp_path / "a.zarr", "six", tmp_path / "b.zarr")
    with pytest.raises(UsageError, match="mean nothing with the static arrays of"):
        into(six, f"six={tmp_path / 'b.zarr'}", tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    assert into(six, f"six={six}", tmp_path / "d.zarr").ok


@pytest.mark.parametrize("codec", ["int4", "six"])
def test_a_codec_that_has_lost_much_is_not_recoded(six, tmp_path, codec):
    path = six
    if codec == "int4":
        write_store(path := tmp_path / "a.zarr", make_spec("int4", 2))
    with pytest.raises(UsageError, match=f"is in {codec}, which has lost too much to be made int8 of"):
        into(path, "int8", tmp_path / "b.zarr")


def test_an_unfinished_store_is_refused(tmp_path):
    with StoreWriter.create_or_resume(tmp_path / "a.zarr", make_spec("float16", 2)) as writer:
        writer.write_clip(0, clip_tokens(0, "float16"), source=source(0))
    with pytest.raises(StoreUnfinishedError):
        into(tmp_path / "a.zarr", "int8", tmp_path / "b.zarr")


def test_the_same_part_twice_at_once_is_refused(floats, tmp_path):
    into(floats, "int8", tmp_path / "b.zarr", part=(0, 2))
    with StoreWriter.join(tmp_path / "b.zarr") as writer:
        writer.pending((1, 2))
        with pytest.raises(StoreBusyError):
            into(floats, "int8", tmp_path / "b.zarr", part=(1, 2))


def test_a_disk_without_room_is_found_before_the_first_clip(floats, tmp_path, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.room.free_bytes", lambda path: 1000)
    with pytest.raises(NoRoomError, match="still needs"):
        into(floats, "int8", tmp_path / "b.zarr")


def test_a_signal_ends_it_soon_and_keeps_what_is_written(floats, tmp_path, monkeypatch):
    encode = recoding._Recoding.encode

    def interrupted(self, clip, static):
        if clip == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return encode(self, clip, static)

    monkeypatch.setattr(recoding._Recoding, "encode", interrupted)
    monkeypatch.setattr(recoding, "available_cores", lambda: 1)
    with pytest.raises(InterruptedRunError, match=r"stopped with [1-4] clips to go"):
        into(floats, "int8", tmp_path / "b.zarr")
    monkeypatch.setattr(recoding._Recoding, "encode", encode)
    assert into(floats, "int8", tmp_path / "b.zarr").skipped >= 1
    into(floats, "int8", tmp_path / "c.zarr")
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "c.zarr")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(floats, six, tmp_path):
    code = (
        "import sys; from pathlib import Path; from mettle_cache.pipelines.recode import RecodeConfig, recode; "
        "from mettle_cache.store.format.codecs import CODECS; from tests.store.toy_codecs import SIX; "
        "CODECS.register(SIX); print(flush=True); "
        "recode(RecodeConfig(store=Path(sys.argv[1]), codec='six', out=Path(sys.argv[2])))"
    )
    for number in range(8):
        command = [sys.executable, "-c", code, str(floats), str(tmp_path / "s.zarr")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.03 * (number + 1))
            process.kill()
    into(floats, "six", tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == contents(six)
