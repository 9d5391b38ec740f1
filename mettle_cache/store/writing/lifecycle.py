"""Beginning and finishing a store.

At the beginning the static files are written, or restored where they were damaged. At the end come the manifest and
then ``READY``, with the digest of everything. Both are removed before anything in a finished store changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mettle_cache.errors import StoreCorruptError, StoreError, StoreKeyError
from mettle_cache.store.format.digests import digest, digest_of
from mettle_cache.store.format.files import CLIPS_FILE, MANIFEST, SAMPLES, clip_ids_bytes, read_table, table_bytes
from mettle_cache.store.format.manifest import find_commit, manifest_table
from mettle_cache.store.format.metadata import COMMITS, READY, ROOT, StoreMetadata, damaged_files, load_metadata
from mettle_cache.store.format.records import CommitRecord, ReadyRecord
from mettle_cache.store.format.spec import StoreSpec, key_differences
from mettle_cache.store.writing.durable import PARTIAL, make_folder, remove_files, write_file
from mettle_cache.store.writing.locks import LOCKS, sweep_locks


def create_store(path: Path, spec: StoreSpec) -> StoreMetadata:
    """The metadata of the store at ``path``, made or resumed; see :meth:`StoreWriter.create_or_resume`."""
    metadata = _existing_store(path, spec)
    if metadata is None:
        metadata = StoreMetadata.of_spec(path, spec)
        _refuse_foreign(path)
        make_folder(path)
    _restore(metadata, spec)
    return metadata


def finish_store(metadata: StoreMetadata, commits: Sequence[CommitRecord]) -> None:
    """Write the manifest and ``READY`` for a complete list of commits, and remove what no finished store has."""
    samples = read_table(metadata.path / SAMPLES, expected=metadata.record.samples, store=metadata.path)
    manifest = table_bytes(manifest_table(metadata, commits, samples))
    ready = ReadyRecord(
        key=metadata.record.key_digest,
        clips=sum(commit.status == "ok" for commit in commits),
        failed=sum(commit.status == "failed" for commit in commits),
        nbytes=sum(commit.nbytes for commit in commits),
        commits=commits_digest([digest(commit.to_bytes()) for commit in commits]),
        files={**metadata.static_digests(), MANIFEST: digest(manifest)},
    ).to_bytes()
    _write_if_different(metadata.path / MANIFEST, manifest)
    for leftover in _leftovers(metadata):
        leftover.unlink(missing_ok=True)
    sweep_locks(metadata.path)
    _write_if_different(metadata.path / READY, ready)


def unready(metadata: StoreMetadata) -> None:
    """Remove ``READY`` and the manifest, before anything in the store changes."""
    for name in (READY, MANIFEST):
        if (metadata.path / name).exists():
            remove_files([metadata.path / name])


def forget_clips(metadata: StoreMetadata, clips: Iterable[int]) -> None:
    """Remove ``READY`` and then the commits of some clips, which are to be written again; their shards stay."""
    unready(metadata)
    remove_files([metadata.commit_path(clip) for clip in clips])


def commits_digest(digests: Sequence[str]) -> str:
    """The digest of all commits: of the list of their digests, in clip order."""
    return digest_of(list(digests))


def _existing_store(path: Path, spec: StoreSpec) -> StoreMetadata | None:
    if not (path / ROOT).exists():
        return None
    new = StoreMetadata.of_spec(path, spec)
    try:
        metadata = load_metadata(path)
    except StoreCorruptError:
        # the commits carry the key too: if they all are of this very request, the root can be written again
        if not _commits_are_of(new):
            raise
        return new
    if metadata.record.key_digest != new.record.key_digest:
        differences = key_differences(metadata.record.key.model_dump(mode="json"), spec.key_document())
        raise StoreKeyError(
            "\n".join(
                [
                    f"{path} was made by another configuration (in the store -> asked for):",
                    *(f"  - {line}" for line in differences[:20]),
                ]
            ),
            hint="give the options that it was made with, or another --out",
        )
    return metadata


def _commits_are_of(metadata: StoreMetadata) -> bool:
    numbers = [name.stem for name in (metadata.path / COMMITS).glob("*.json")]
    return bool(numbers) and all(
        number.isascii() and number.isdigit() and find_commit(metadata, int(number)) is not None for number in numbers
    )


def _refuse_foreign(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise StoreError(f"{path} is not a folder", hint="give another --out")
    foreign = [] if not path.exists() else [item.name for item in path.iterdir() if not _may_precede(item.name)]
    if foreign:
        raise StoreError(
            f"{path} holds other things and is not a token store: {', '.join(sorted(foreign)[:5])}",
            hint="give another --out, or an empty folder",
        )


def _may_precede(name: str) -> bool:
    return name == LOCKS or (name.startswith(ROOT) and name.endswith(PARTIAL))


def _restore(metadata: StoreMetadata, spec: StoreSpec) -> None:
    """Write every static file that is missing or has another content than it must have; the root's first."""
    contents: dict[str, Callable[[], bytes]] = {
        **{name: partial(bytes, content) for name, content in metadata.metadata_files().items()},
        CLIPS_FILE: partial(clip_ids_bytes, spec.clips),
        SAMPLES: partial(table_bytes, spec.samples),
        **{name: partial(bytes, content) for name, content in spec.static_files.items()},
    }
    expected = metadata.static_digests()
    for name, _ in damaged_files(metadata, expected):
        content = contents[name]()
        if digest(content) != expected[name]:
            raise StoreCorruptError(
                f"{metadata.path / name} is damaged and this version of pyarrow writes it otherwise",
                hint="restore it from a copy, use the pyarrow that the store was made with, or extract anew",
            )
        unready(metadata)
        make_folder((metadata.path / name).parent)
        write_file(metadata.path / name, content)
    make_folder(metadata.path / COMMITS)


def _leftovers(metadata: StoreMetadata) -> Iterator[Path]:
    folders = {metadata.path, metadata.path / COMMITS}
    for array in metadata.layout:
        folders |= {metadata.path / array.name, (metadata.path / array.name).parent}
    for folder in sorted(folders):
        yield from folder.glob(f"*{PARTIAL}")


def _write_if_different(path: Path, content: bytes) -> None:
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    write_file(path, content)
