"""Making a store's static files, and putting them right again when they were damaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mettle_cache.errors import StoreCorruptError, StoreError, StoreKeyError
from mettle_cache.store.format.clip_ids import CLIPS, clip_ids_bytes
from mettle_cache.store.format.commits import find_commit
from mettle_cache.store.format.metadata import COMMITS, ROOT, StoreHead, load_head
from mettle_cache.store.format.ready import damaged_files, static_digests
from mettle_cache.store.format.spec import StoreSpec, digest, key_differences
from mettle_cache.store.format.tables import SAMPLES, table_bytes
from mettle_cache.store.writing.durable import PARTIAL, make_folder, write_file
from mettle_cache.store.writing.finishing import unready
from mettle_cache.store.writing.locks import LOCKS


def create_store(path: Path, spec: StoreSpec) -> StoreHead:
    """The head of the store at ``path``, made or resumed; see :meth:`StoreWriter.create_or_resume`."""
    head = _existing_head(path, spec)
    if head is None:
        head = StoreHead.of_spec(path, spec)
        _refuse_foreign(path)
        make_folder(path)
    _restore(head, spec)
    return head


def _existing_head(path: Path, spec: StoreSpec) -> StoreHead | None:
    if not (path / ROOT).exists():
        return None
    new = StoreHead.of_spec(path, spec)
    try:
        head = load_head(path)
    except StoreCorruptError:
        # the commits carry the key too: if they all are of this very request, the root can be written again
        if not _commits_are_of(new):
            raise
        return new
    if head.record.key_digest != new.record.key_digest:
        differences = key_differences(head.record.key.model_dump(mode="json"), spec.key_document())
        raise StoreKeyError(
            "\n".join(
                [f"{path} was made by another configuration (in the store -> asked for):", *_indent(differences)]
            ),
            hint="give the options that it was made with, or another --out",
        )
    return head


def _commits_are_of(head: StoreHead) -> bool:
    numbers = [name.stem for name in (head.path / COMMITS).glob("*.json")]
    return bool(numbers) and all(
        number.isascii() and number.isdigit() and find_commit(head, int(number)) is not None for number in numbers
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


def _restore(head: StoreHead, spec: StoreSpec) -> None:
    """Write every static file that is missing or is not as it must be; the root's first."""
    contents: dict[str, Callable[[], bytes]] = {
        **{name: partial(bytes, content) for name, content in head.metadata_files().items()},
        CLIPS: partial(clip_ids_bytes, spec.clips),
        SAMPLES: partial(table_bytes, spec.samples),
    }
    expected = static_digests(head)
    for name, _ in damaged_files(head, expected):
        content = contents[name]()
        if digest(content) != expected[name]:
            raise StoreCorruptError(
                f"{head.path / name} is damaged and this version of pyarrow writes it otherwise",
                hint="restore it from a copy, use the pyarrow that the store was made with, or extract anew",
            )
        unready(head)
        make_folder((head.path / name).parent)
        write_file(head.path / name, content)
    make_folder(head.path / COMMITS)


def _indent(lines: list[str]) -> list[str]:
    return [f"  - {line}" for line in lines[:20]]
