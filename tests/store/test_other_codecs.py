"""Codecs of other packages from writing to reading: static arrays, numbers a token, packed codes."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import zarr

from mettle_cache.errors import MettleError, StoreCorruptError, StoreError, StoreKeyError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, verify_store
from mettle_cache.store.format.codecs import CODECS, encode_layers, get_codec
from mettle_cache.tokens import INT8, LayerTokens
from tests.store.tiny import LAYERS, SEGMENTS, contents, make_spec, raw_tokens, source
from tests.store.toy_codecs import SIX

CLIPS = 3


@pytest.fixture(autouse=True, scope="module")
def installed():
    CODECS.register(SIX)
    yield
    CODECS.unregister(SIX.name)


def run_pilot(clips=(0, 1, 2)):
    pilot = get_codec("six").pilot(LAYERS)
    assert [clip for clip, _ in pilot.choose([f"clip-{clip}" for clip in range(CLIPS)], SEGMENTS)] == [0, 1, 2]
    for clip in clips:
        pilot.add(raw_tokens(clip))
    return pilot.finish()


def spec_of(codec, **fields):
    return make_spec(codec, CLIPS, **({"static": run_pilot()} if codec == "six" else {}), **fields)


def encoded(spec, clip):
    return encode_layers(raw_tokens(clip, spec.layers), get_codec(spec.codec), spec.layers, spec.static)


def write(path, spec, clips=range(CLIPS)):
    with StoreWriter.create_or_resume(path, spec) as writer:
        for clip in set(writer.pending()) & set(clips):
            writer.write_clip(clip, encoded(spec, clip), source=source(clip))
        return writer.finish()


@pytest.fixture(scope="module")
def six(installed, tmp_path_factory):
    path = tmp_path_factory.mktemp("six") / "s.zarr"
    write(path, spec_of("six"))
    return path


def test_what_was_encoded_is_read(tmp_path):
    spec = spec_of("six")
    assert write(tmp_path / "s.zarr", spec).finished
    assert verify_store(tmp_path / "s.zarr", deep=True).ok
    with TokenStore.open(tmp_path / "s.zarr", check="always") as store:
        assert store.codec == "six"
        batch = store.read([2, 0])
        for slot, clip in enumerate((2, 0)):
            for name, x in raw_tokens(clip).items():
                floats = batch.layers[name].floats()[slot]
                assert torch.equal(floats, encoded(spec, clip)[name].floats())
                assert (floats - x).norm() <= 0.06 * x.norm()


def test_the_pilots_arrays_are_in_the_store_and_in_its_key(six):
    static = run_pilot()
    document = describe_store(six)["key"]["static"]
    assert sorted(document) == [f"static/{array}_levels/c.0.0" for array in ("audio/s1", "visual/s1", "visual/s2")]
    levels = zarr.open_group(six, mode="r")["static/visual/s2_levels"]
    assert levels.metadata.dimension_names == ("block", "code")
    expected = torch.stack([static[layer.name]["levels"] for layer in LAYERS if layer.array == "visual/s2"])
    assert torch.equal(torch.from_numpy(levels[:]), expected)


def test_both_views_of_zarr_have_them(six):
    store = TokenStore.open(six)
    stored, decoded = store.to_zarr(), store.to_zarr(decoded=True)
    plain = zarr.open_group(six, mode="r")["static/visual/s2_levels"]
    assert torch.equal(torch.from_numpy(stored["static/visual/s2_levels"][:]), torch.from_numpy(plain[:]))
    assert set(decoded) == {"audio", "visual"}
    floats = store.read([2], ["visual/s2b03"]).layers["visual/s2b03"].floats()
    assert torch.equal(torch.from_numpy(decoded["visual/s2"][2, 2]), floats[0])


def test_all_batches_and_reads_share_one_copy_of_them(six):
    with TokenStore.open(six) as store:
        with ThreadPoolExecutor(4) as threads:
            read = list(threads.map(lambda clip: store.read([clip]), [0, 1, 2, 0]))
        batches = [*read, *store.batches([[0, 1], [2]])]
    for name in (LAYERS[0].name, LAYERS[-1].name):
        assert all(batch.layers[name].static["levels"] is batches[0].layers[name].static["levels"] for batch in batches)
    there = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    name = LAYERS[0].name
    again = there.read([1]).layers[name]
    assert torch.equal(again.static["levels"], batches[0].layers[name].static["levels"])
    assert len(pickle.dumps(store)) < 2000, "a store is sent as its path"


def test_another_set_of_static_arrays_is_refused(six):
    with pytest.raises(StoreKeyError, match=r"static\.static/visual/s1_levels/c\.0\.0: \"\w+\" -> \"\w+\""):
        StoreWriter.create_or_resume(six, replace(spec_of("six"), static=run_pilot([0])))


def test_static_arrays_that_are_missing_or_of_another_form_are_refused(tmp_path):
    static = run_pilot()
    name = LAYERS[1].name
    for wrong, message in [
        ({**static, name: {}}, "not none at all"),
        ({**static, name: {"levels": static[name]["levels"][:9]}}, r"not float32 \(9,\)"),
        ({**static, name: {"levels": static[name]["levels"].half()}}, r"not float16 \(64,\)"),
    ]:
        with pytest.raises(StoreError, match=f"layer {name}: codec six stores float32 .* {message}"):
            write(tmp_path / "s.zarr", replace(spec_of("six"), static=wrong))


def test_a_run_that_was_killed_after_any_file_goes_on_to_the_same_bytes(six, tmp_path):
    """Whatever prefix of its files, in the order of writing, a killed run has left."""
    whole = contents(six)
    first = [name for name in whole if name == "zarr.json"]
    static = [name for name in whole if name.startswith("static")]
    for kept in (first, first + static[:1], first + static, [*first, *static, "clips.json", "samples.parquet"]):
        path = tmp_path / f"{len(kept)}.zarr"
        for name in kept:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(whole[name])
        write(path, spec_of("six"), clips=[1])
        assert not TokenStore.open(path, allow_unfinished=True).finished
        write(path, spec_of("six"))
        assert contents(path) == whole


@pytest.mark.parametrize("kind", ["flip", "short", "deleted"])
def test_damage_to_every_file_is_found(six, tmp_path, kind):
    for number, file in enumerate(sorted(contents(six))):
        path = shutil.copytree(six, tmp_path / str(number))
        data = (path / file).read_bytes()
        if kind == "deleted":
            (path / file).unlink()
        else:
            middle = len(data) // 2
            damaged = data[:-1] if kind == "short" else data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
            (path / file).write_bytes(damaged)
        try:
            report = verify_store(path, deep=True)
        except MettleError:
            assert file == "zarr.json"
            continue
        assert not report.ok
        assert file == "READY" or any(problem.file == file for problem in report.problems)


def test_a_damaged_static_array_is_never_read_and_is_written_anew(six, tmp_path):
    path = shutil.copytree(six, tmp_path / "s.zarr")
    file = path / "static/visual/s1_levels/c.0.0"
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(StoreCorruptError, match=r"static/visual/s1_levels/c\.0\.0: not the bytes that were written"):
        TokenStore.open(path)
    write(path, spec_of("six"))
    assert contents(path) == contents(six)


def test_a_store_in_a_codec_that_is_not_installed_says_so(six):
    CODECS.unregister("six")
    try:
        with pytest.raises(StoreError, match="is written in the codec 'six', which is not installed here"):
            TokenStore.open(six)
    finally:
        CODECS.register(SIX)


def test_parts_that_the_codec_does_not_declare_are_refused_and_not_dropped(tmp_path):
    with (
        StoreWriter.create_or_resume(tmp_path / "s.zarr", make_spec("float16", 1)) as writer,
        pytest.raises(StoreError, match=r"layer .*: codes are uint8 .*, the store holds float16"),
    ):
        writer.write_clip(0, encoded(spec_of("six"), 0), source=source(0))
    with StoreWriter.create_or_resume(tmp_path / "t.zarr", make_spec("float16", 1)) as writer:
        floats = encode_layers(raw_tokens(0), get_codec("float16"))
        name = LAYERS[0].name
        scaled = replace(INT8, code_dtype=torch.float16)
        surplus = LayerTokens(floats[name].codes, scaled, {"scale": torch.ones(1), "zero": torch.zeros(1)})
        with pytest.raises(StoreError, match=f"layer {name}: the store holds no scale, zero, which the tokens have"):
            writer.write_clip(0, {**floats, name: surplus}, source=source(0))
