"""Sending a store or runs to the hub: in commits of bounded size, the file that completes it and the card last."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.share.address import Address
from mettle_cache.pipelines.share.contents import Contents, contents_of
from mettle_cache.pipelines.share.hub import hub_errors, open_hub
from mettle_cache.pipelines.share.portable import Content

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
# the hub's own
_LEFT_ALONE = {CARD, ".gitattributes"}
MOST_FILES, MOST_BYTES = 100, 2 << 30


@dataclass(frozen=True)
class PushReport:
    """What was sent, and where it is now; ``commit`` is that of the whole."""

    path: Path
    kind: str
    url: str
    commit: str
    files: int
    nbytes: int
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "path": str(self.path)}


def push(path: Path, address: Address, progress: Progress, *, private: bool = False) -> PushReport:
    """Send what is at ``path``; a push that was cut off goes on where it stopped, an unchanged file is not sent again.

    Raises
    ------
    UsageError
        The address is of the other kind of repository, the repository holds something else, or nobody is logged in.
    StoreError, RunError
        As :func:`~mettle_cache.pipelines.share.contents.contents_of`.
    HubError
        The hub refuses, or cannot be reached.
    """
    api = open_hub(writes=True)
    contents = contents_of(path, str(address))
    if address.kind not in (None, contents.repo_type):
        raise UsageError(f"{address}: {path} goes into a {contents.repo_type} repository", hint="write hf://USER/NAME")
    for note in contents.notes:
        progress.note(note)
    with hub_errors(address):
        created = api.create_repo(address.repo, repo_type=contents.repo_type, private=private or None, exist_ok=True)
        if address.revision:
            api.create_branch(address.repo, branch=address.revision, repo_type=contents.repo_type, exist_ok=True)
        _refuse_others(api, address, contents)
        progress.start(len(contents.files), "files", f"push {format_bytes(contents.nbytes)} to {address}")
        commit = ""
        for batch in _batches(contents):
            commit = _commit(api, address, contents, batch)
            progress.advance(sum(name != CARD for name in batch), nbytes=sum(map(_size, batch.values())))
        progress.finish()
    files = len(contents.files)
    return PushReport(path, contents.kind, str(created), commit, files, contents.nbytes, contents.notes)


def _refuse_others(api: HfApi, address: Address, contents: Contents) -> None:
    there = api.list_repo_files(address.repo, revision=address.revision, repo_type=contents.repo_type)
    others = sorted(set(there) - _LEFT_ALONE - set(contents.files))
    if others:
        raise UsageError(
            f"{address} holds something else: {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}",
            hint="choose another name, or remove these files there",
        )


def _batches(contents: Contents) -> Iterator[dict[str, Content]]:
    """The files by commits; the last one comes with the card alone, so that a push that was cut off can be told."""
    *names, last = contents.files
    batch: dict[str, Content] = {}
    for name in names:
        content = contents.files[name]
        if batch and (len(batch) == MOST_FILES or sum(map(_size, batch.values())) + _size(content) > MOST_BYTES):
            yield batch
            batch = {}
        batch[name] = content
    if batch:
        yield batch
    yield {last: contents.files[last], CARD: contents.card.encode()}


def _commit(api: HfApi, address: Address, contents: Contents, batch: dict[str, Content]) -> str:
    from huggingface_hub import CommitOperationAdd

    additions = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in batch.items()
    ]
    with warnings.catch_warnings():
        # it takes tables of predictions for data sets
        warnings.simplefilter("ignore", UserWarning)
        made = api.create_commit(
            address.repo,
            additions,
            commit_message=f"Add {len(batch)} files of a {contents.kind} with mettle-cache",
            repo_type=contents.repo_type,
            revision=address.revision,
        )
    return str(made.oid)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
