"""Damage to every file that a store has: it is named, nothing wrong is read, and one more run gives the bytes of old.

The files are those that are found in stores of several codecs, finished and not, so new ones are covered as they come.
"""

import os
import re
import shutil

import pytest
import torch

from mettle_cache.errors import MettleError
from mettle_cache.store import StoreWriter, TokenStore, repair_store, verify_store
from mettle_cache.store.format.files import PARTIAL
from tests.store.tiny import LAYERS, clip_tokens, contents, make_spec, source, write_store

FEW = tuple(layer for layer in LAYERS if layer.modality == "audio")
# two shards that are sealed, or one of them and one that is being filled
CLIPS = 4
STORES = {"finished int8": ("int8", CLIPS), "unfinished float16": ("float16", 3)}


def make(path, codec, committed, **fields):
    spec = make_spec(codec, clips=CLIPS, layers=FEW, **fields)
    if committed == CLIPS:
        write_store(path, spec)
        return
    with StoreWriter.create_or_resume(path, spec) as writer:
        for clip in range(committed):
            writer.write_clip(clip, clip_tokens(clip, codec, FEW), source=source(clip))


@pytest.fixture(scope="module", params=STORES)
def stores(request, tmp_path_factory):
    """A store, one of another key with other tokens, and what a run that nothing interrupted makes of the first."""
    folder = tmp_path_factory.mktemp("stores")
    codec, committed = STORES[request.param]
    make(folder / "intact.zarr", codec, committed)
    make(folder / "other.zarr", codec, committed, key={"visual": "other"})
    make(folder / "whole.zarr", codec, CLIPS)
    return folder, codec


def flip(data):
    """In a shard of two clips it is a byte of the first."""
    return data[: len(data) // 4] + bytes([data[len(data) // 4] ^ 1]) + data[len(data) // 4 + 1 :]


CHANGES = {
    "flipped": flip,
    "emptied": lambda data: b"",
    "halved": lambda data: data[: len(data) // 2],
    "short": lambda data: data[:-1],
}


def neighbour(file, files):
    """The next file of the same kind: another clip's shard or record, another array's metadata, another table."""
    kind = re.sub(r"\d+", "#", file) if "/c." in file or "commits/" in file else file.rpartition("/")[2]
    alike = [name for name in files if name.endswith(kind) or re.sub(r"\d+", "#", name) == kind]
    return alike[(alike.index(file) + 1) % len(alike)] if len(alike) > 1 else files[files.index(file) - 1]


def damage(how, path, file, folder):
    """Whether the file is another now."""
    before = (path / file).read_bytes()
    if how == "deleted":
        (path / file).unlink()
        return True
    if how == "of a neighbour":
        files = sorted(contents(folder / "intact.zarr"))
        after = (folder / "intact.zarr" / neighbour(file, files)).read_bytes()
    elif how == "of another store":
        after = (folder / "other.zarr" / file).read_bytes()
    else:
        after = CHANGES[how](before)
    (path / file).write_bytes(after)
    return after != before


def may_be_what_a_kill_left(path, file, how):
    """Nothing, a log that ends early, or a shard that is being filled and ends behind its only clip."""
    if (path / "READY").exists():
        return False
    if file.endswith(PARTIAL):
        return how in ("halved", "short")
    return file == "READY" or (file.startswith("commits/") and how != "flipped")


def assert_named_and_repair(path, file, how):
    """Verification tells of the file; of one without which a store is only unfinished it need not."""
    try:
        report = verify_store(path, deep=True)
    except MettleError as error:
        assert str(path / file) in error.message  # noqa: PT017
        assert error.hint  # noqa: PT017
        return
    named = any(file.removesuffix(PARTIAL) in str(problem) for problem in report.problems)
    assert named or may_be_what_a_kill_left(path, file, how), file
    repair_store(report)


def assert_nothing_wrong_is_read(path, codec):
    try:
        store = TokenStore.open(path, check="always", allow_unfinished=True)
    except MettleError:
        return
    for clip in range(CLIPS):
        try:
            batch = store.read([clip])
        except MettleError:
            continue
        for name, tokens in clip_tokens(clip, codec, FEW).items():
            assert torch.equal(batch.layers[name].codes[0], tokens.codes)


@pytest.mark.parametrize("how", [*CHANGES, "deleted", "of a neighbour", "of another store"])
def test_damage_is_named_refused_and_healed(stores, tmp_path, monkeypatch, how):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here, and it is most of the time
    folder, codec = stores
    whole = contents(folder / "whole.zarr")
    for file in contents(folder / "intact.zarr"):
        path = shutil.copytree(folder / "intact.zarr", tmp_path / "s.zarr")
        if damage(how, path, file, folder):
            assert_nothing_wrong_is_read(path, codec)
            assert_named_and_repair(path, file, how)
            write_store(path, make_spec(codec, clips=CLIPS, layers=FEW))
            assert contents(path) == whole, file
        shutil.rmtree(path)
