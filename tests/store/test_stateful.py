"""A store through any sequence of writing, failing, killing, damaging, repairing and reading.

The invariant: a read equals the oracle or raises. At the end, one more run gives the bytes of an uninterrupted one.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mettle_cache.errors import MettleError
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import repair_store, verify_store
from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import LAYERS, clip_tokens, contents, make_spec, source, write_store

CLIPS = 3
FEW = tuple(layer for layer in LAYERS if layer.stage == 1)
SPEC = make_spec(clips=CLIPS, layers=FEW)
ORACLE = {clip: clip_tokens(clip, layers=FEW) for clip in range(CLIPS)}
clips = st.integers(0, CLIPS - 1)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "s.zarr"
        self.reader = None
        self.uninterrupted = None
        self.damaged = False

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(clip=clips)
    def write(self, clip):
        with StoreWriter.create_or_resume(self.path, SPEC) as writer:
            if clip in writer.pending():
                writer.write_clip(clip, ORACLE[clip], source=source(clip))

    @rule(clip=clips, files=st.integers(0, 9), left=st.integers(0, 40))
    def killed_while_writing(self, clip, files, left):
        """The commit is gone; some shards are being filled anew, one is half of a temporary file."""
        with StoreWriter.create_or_resume(self.path, SPEC) as writer:
            writer.pending()
            (self.path / "READY").unlink(missing_ok=True)
            writer.metadata.commit_path(clip).unlink(missing_ok=True)
            for shard in writer.metadata.shard_paths(clip)[:files]:
                shard.parent.mkdir(parents=True, exist_ok=True)
                shard.with_name(f"{shard.name.removesuffix('.partial')}.partial").write_bytes(b"\0" * left)
                shard.with_name(f"{shard.name}.1-1.partial").write_bytes(b"\1" * left)

    @rule(clip=clips)
    def fail(self, clip):
        with StoreWriter.create_or_resume(self.path, SPEC) as writer:
            if clip in writer.pending():
                writer.fail_clip(clip, "no such video", source(clip))

    @precondition(lambda self: self.path.exists())
    @rule()
    def finish(self):
        with StoreWriter.create_or_resume(self.path, SPEC) as writer:
            writer.finish()

    @precondition(lambda self: self.path.exists())
    @rule(data=st.data())
    def damage(self, data):
        """One bit flips, or a file is cut or lost; the root metadata have tests of their own."""
        files = sorted(file for file in self.path.rglob("*") if file.is_file() and file != self.path / "zarr.json")
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        kind = data.draw(st.sampled_from(["flip", "cut", "lose"]))
        if kind == "lose":
            file.unlink()
        elif content:
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content if kind == "flip" else content[:place])
        self.damaged = True

    @precondition(lambda self: self.path.exists())
    @rule()
    def repair(self):
        report = verify_store(self.path, deep=True)
        assert self.damaged or not report.problems, "a store that was only interrupted is not damaged"
        repair_store(report)
        write_store(self.path, SPEC)
        assert verify_store(self.path, deep=True).ok
        self.damaged = False
        self.compare_with_an_uninterrupted_run()

    @invariant()
    def a_read_equals_the_oracle_or_raises(self):
        try:
            store = TokenStore.open(self.path, allow_unfinished=True)
        except MettleError:
            return
        for clip in range(CLIPS):
            try:
                batch = store.read([clip])
            except MettleError:
                continue
            for name, tokens in ORACLE[clip].items():
                assert torch.equal(batch.layers[name].codes[0], tokens.codes)
                assert torch.equal(batch.layers[name].scale[0], tokens.scale)
                assert torch.equal(batch.layers[name].zero[0], tokens.zero)
        store.close()

    def compare_with_an_uninterrupted_run(self):
        if self.uninterrupted is None:
            write_store(self.folder / "whole.zarr", SPEC)
            self.uninterrupted = contents(self.folder / "whole.zarr")
        assert contents(self.path) == self.uninterrupted


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=8, stateful_step_count=8, deadline=None)
