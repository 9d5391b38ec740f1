"""A writer to be killed: ``python -m tests.store.extract_script STORE CLIPS PART OF``."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import clip_tokens, make_spec, source


def main(path: str, clips: str, part: str, of: str) -> None:
    with StoreWriter.create_or_resume(Path(path), make_spec(clips=int(clips))) as writer:
        pending = writer.pending((int(part), int(of)))
        sys.stdout.write("started\n")
        sys.stdout.flush()

        def write(clip: int) -> None:
            if clip % 7 == 5:
                writer.fail_clip(clip, "no such video", source(clip))
            else:
                writer.write_clip(clip, clip_tokens(clip), source=source(clip))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, pending))
        writer.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
