"""Beginning and finishing a store.

At the beginning the static files are written, or restored where they were damaged. At the end come the manifest and
then ``READY``, with the digest of everything. Both are removed before anything in a finished store changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mettle_cache.errors import (
    ConfigError,
    StoreCorruptError,
    StoreError,
    StoreKeyError,
    StoreMissingError,
    StoreUnfinishedError,
)
from mettle_cache.paths import command_line
from mettle_cache.store.format.clip_ids import LARGEST_IDS, clip_ids_bytes
from mettle_cache.store.format.commit_log import log_lines
from mettle_cache.store.format.digests import digest, digest_of
from mettle_cache.store.format.files import (
    CLIPS_FILE,
    LARGEST_RECORD,
    MANIFEST,
    PARTIAL,
    SAMPLES,
    open_table,
    read_small,
    table_bytes,
)
from mettle_cache.store.format.intact import check_files, damaged_files
from mettle_cache.store.format.manifest import ManifestRow, manifest_table
from mettle_cache.store.format.metadata import (
    COMMITS,
    READY,
    ROOT,
    StoreMetadata,
    load_metadata,
    read_ready,
    refuse_links,
)
from mettle_cache.store.format.records import CommitRecord, ReadyRecord
from mettle_cache.store.format.spec import FORMAT_VERSION, StoreSpec, key_differences
from mettle_cache.store.writing.clip_log import withdraw
from mettle_cache.store.writing.durable import make_folder, remove_files, write_file
from mettle_cache.store.writing.locks import LOCKS, ShardLock, sweep_locks


def create_store(path: Path, spec: StoreSpec) -> StoreMetadata:
    """The metadata of the store at ``path``, made or resumed; see :meth:`StoreWriter.create_or_resume`."""
    new = StoreMetadata.of_spec(path, spec)
    _check_sizes(new, spec)
    metadata = _existing_store(new)
    if metadata is None:
        metadata = new
        refuse_foreign(path)
        make_folder(path)
    refuse_links(metadata)
    if metadata.format == new.format:
        _restore(metadata, spec)
    else:
        _check_old(metadata)
    return metadata


def refuse_old_format(metadata: StoreMetadata) -> None:
    """Raise StoreError for a store of an older format, which is read, but not written any more."""
    if metadata.format < FORMAT_VERSION:
        raise StoreError(
            f"{metadata.path} has store format {metadata.format}: it can be read, trained from and verified, but this "
            f"version writes format {FORMAT_VERSION} only",
            hint="make it anew with another --out; or turn what it has into the new format: "
            f"{command_line('mettle recode', metadata.path)} --codec {metadata.record.key.codec} --out NEW",
        )


def _check_old(metadata: StoreMetadata) -> None:
    """Refuse a store of an older format unless it is finished: then there may be nothing to do."""
    if not os.path.lexists(metadata.path / READY):
        raise StoreError(
            f"{metadata.path} is an unfinished store of format {metadata.format}, and this version writes format "
            f"{FORMAT_VERSION} only",
            hint="begin anew: run the same command with another --out, or remove this store first",
        )
    check_files(metadata, read_ready(metadata))


def finish_store(metadata: StoreMetadata, rows: Sequence[ManifestRow]) -> None:
    """Write the manifest and ``READY`` for all clips in order, and remove what no finished store has."""
    samples = metadata.read_samples()
    manifest = table_bytes(manifest_table(metadata, rows, samples))
    done = sum(row.status == "ok" for row in rows)
    ready = ReadyRecord(
        key=metadata.record.key_digest,
        clips=done,
        failed=len(rows) - done,
        nbytes=done * metadata.clip_bytes,
        commits=commits_digest([row.commit for row in rows]),
        files={**metadata.static_digests(), MANIFEST: digest(manifest)},
    ).to_bytes()
    _write_if_different(metadata, MANIFEST, manifest)
    for leftover in _leftovers(metadata):
        leftover.unlink(missing_ok=True)
    sweep_locks(metadata.path)
    _write_if_different(metadata, READY, ready)


def unready(metadata: StoreMetadata) -> None:
    """Remove ``READY`` and the manifest, before anything in the store changes."""
    for name in (READY, MANIFEST):
        if os.path.lexists(metadata.path / name):
            remove_files([metadata.path / name])


def forget_clips(metadata: StoreMetadata, clips: Iterable[int], *, logs: Iterable[int] = ()) -> None:
    """Remove ``READY`` and then the records of some clips, which are to be written again; their data stay.

    Of these logs, named by their shards' numbers, what is no record goes too.
    """
    unready(metadata)
    by_shard: dict[int, list[int]] = {shard: [] for shard in logs}
    for clip in clips:
        by_shard.setdefault(metadata.shard(clip), []).append(clip)
    for shard, members in by_shard.items():
        with ShardLock(metadata.path, shard):
            withdraw(metadata, shard, members)


def commits_digest(digests: Sequence[str]) -> str:
    """The digest of all commits: of the list of their digests, in clip order."""
    return digest_of(list(digests))


def _check_sizes(new: StoreMetadata, spec: StoreSpec) -> None:
    """Refuse to write what no reader takes. Raises ConfigError."""
    problems = []
    for name, content, limit in (
        (ROOT, new.metadata_files()[ROOT], LARGEST_RECORD),
        (CLIPS_FILE, clip_ids_bytes(spec.clips), LARGEST_IDS),
    ):
        if len(content) > limit:
            problems.append(f"{name} would have {len(content):,} bytes, more than the {limit:,} that it may have")
    problems += [
        f"a shard of {array.name} would be beyond any size that is read; give fewer clips a shard"
        for array in new.layout
        if not array.readable
    ]
    try:
        open_table(table_bytes(spec.samples))
    except ValueError as error:
        problems.append(f"{SAMPLES} would have {error}")
    if problems:
        raise ConfigError(problems, where=f"store of {spec.dataset}")


def _existing_store(new: StoreMetadata) -> StoreMetadata | None:
    """The metadata of what lies at the path of ``new``, or None where a store has still to be begun.

    ``new`` itself where the root metadata are lost, damaged or another store's, and everything beside them shows that
    this very store was made here: they can be written again.
    """
    try:
        metadata = load_metadata(new.path)
    except (StoreMissingError, StoreUnfinishedError):
        return None
    except StoreError:
        if _records_are_of(new) or _files_are_of(new):
            return new
        raise
    if metadata.record.key_digest == new.record.key_digest:
        return metadata
    if metadata.format == new.format and _records_are_of(new):
        return new
    theirs, ours = (_comparable(each, metadata.format) for each in (metadata, new))
    if theirs == ours:
        return metadata
    differences = key_differences(theirs, ours)
    raise StoreKeyError(
        "\n".join(
            [
                f"{new.path} was made by another configuration (in the store -> asked for):",
                *(f"  - {line}" for line in differences[:20]),
            ]
        ),
        hint="give the options that it was made with, or another --out",
    )


def _comparable(metadata: StoreMetadata, version: int) -> dict[str, object]:
    """The key, of which nothing counts that an older format ``version`` does not have."""
    key: dict[str, object] = metadata.record.key.model_dump(mode="json")
    ours = set() if version == FORMAT_VERSION else {"format", "clips_per_shard"}
    return {name: value for name, value in key.items() if name not in ours}


def _records_are_of(metadata: StoreMetadata) -> bool:
    """Whether clips were committed there, and every intact record is of this store."""
    return set(keys_of_records(metadata)) == {metadata.record.key_digest}


def _files_are_of(metadata: StoreMetadata) -> bool:
    """Whether nothing was committed there, and what is there of the other files is of this store."""
    expected = {name: digest for name, digest in metadata.static_digests().items() if name != ROOT}
    there = {name for name in expected if os.path.lexists(metadata.path / name)}
    damaged = {name for name, _ in damaged_files(metadata, expected)}
    return not any(keys_of_records(metadata)) and bool(there) and not there & damaged


def keys_of_records(metadata: StoreMetadata) -> Iterator[str]:
    """The key that each intact record names; a damaged one says nothing and is written anew."""
    with suppress(StoreCorruptError, ValueError):
        data = read_small(metadata.path / READY, limit=LARGEST_RECORD, store=metadata.path)
        yield ReadyRecord.from_bytes(data).key
    for shard in metadata.logged_shards():
        with suppress(StoreCorruptError):
            for line in log_lines(metadata, shard):
                with suppress(ValueError):
                    yield CommitRecord.from_bytes(line).key


def refuse_foreign(path: Path) -> None:
    """Raise StoreError for a place where a new store would lie among other things."""
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


def _write_if_different(metadata: StoreMetadata, name: str, content: bytes) -> None:
    if damaged_files(metadata, {name: digest(content)}):
        write_file(metadata.path / name, content)
