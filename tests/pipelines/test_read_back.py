"""What a stopped run left is compared with its records, and what is damaged is told and forgotten."""

from mettle_cache.pipelines.read_back import read_back
from mettle_cache.store import StoreWriter
from tests.pipelines.listener import Listener
from tests.store.tiny import clip_tokens, make_spec, source


def test_damaged_clips_are_named_and_pending_again(tmp_path):
    spec, listener = make_spec("int8", clips=3), Listener()
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", spec) as writer:
        for clip in range(2):
            writer.write_clip(clip, clip_tokens(clip), source=source(clip))
    partial = next((tmp_path / "s.zarr/visual/s1").glob("c.0*"))
    partial.write_bytes(bytes([partial.read_bytes()[0] ^ 1]) + partial.read_bytes()[1:])
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", spec) as writer:
        assert writer.pending(compare=False) == [2]
        assert read_back(writer, writer.unread(), listener) == [0]
        assert writer.pending(compare=False) == [0, 2]
        assert (listener.total, listener.done, len(listener.notes)) == (2, 2, 1)
        assert listener.notes[0].startswith("damaged since it was written: clip clip-0, visual/s1b01")
        assert read_back(writer, [], listener) == []
