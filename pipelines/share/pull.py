"""Fetching a store or runs from the hub: into a folder beside the place, verified there, and then put into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mettle_cache.errors import MettleError, NoRoomError, StoreCorruptError, UsageError
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.share.address import Address
from mettle_cache.pipelines.share.contents import HEAD
from mettle_cache.pipelines.share.hub import HubError, hub_errors, open_hub
from mettle_cache.pipelines.share.push import CARD
from mettle_cache.pipelines.train.run_folder import RunFolder, find_runs
from mettle_cache.sealing import file_seal_fits
from mettle_cache.store import verify_store
from mettle_cache.store.format.metadata import READY, ROOT
from mettle_cache.store.writing.durable import disk_errors, free_bytes, make_folder, sync_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NOT_OURS = (CARD, ".gitattributes")
# where the client keeps what it knows of a folder that it fills
_CLIENT = ".cache"


@dataclass(frozen=True)
class PullReport:
    """What was fetched and verified."""

    out: Path
    kind: str
    commit: str
    files: int
    nbytes: int

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "out": str(self.out)}


def pull(address: Address, progress: Progress, *, out: Path | None = None) -> PullReport:
    """Fetch what is at an address into ``out``, by default ``cache/NAME.zarr`` or ``runs/NAME``.

    A pull that was cut off goes on; nothing is at ``out`` before all of it is there and verified.

    Raises
    ------
    UsageError
        Something is at ``out`` already.
    HubError
        The hub refuses or cannot be reached, or what is there is nothing of ours, or was not pushed to the end.
    StoreCorruptError, RunError
        What came is not what was pushed; it is removed.
    NoRoomError
        The disk cannot hold it.
    """
    api = open_hub(writes=False)
    with hub_errors(address):
        repo_type, info = _find(api, address)
    sizes = {one.rfilename: int(one.size or 0) for one in info.siblings or () if one.rfilename not in _NOT_OURS}
    kind = _kind(address, sizes)
    name = address.repo.rpartition("/")[2]
    target = out or (Path("cache") / f"{name.removesuffix('.zarr')}.zarr" if kind == "store" else Path("runs") / name)
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="choose another place with --out")
    partial = target.with_name(f".{target.name}.pull")
    make_folder(target.parent)
    if sum(sizes.values()) > free_bytes(target.parent):
        raise NoRoomError(f"{address} has {format_bytes(sum(sizes.values()))}, more than is free at {target.parent}")
    progress.note(f"{kind} of {len(sizes)} files, {format_bytes(sum(sizes.values()))}, to {target}")
    with disk_errors(partial, needed=sum(sizes.values())), hub_errors(address):
        api.snapshot_download(
            address.repo, repo_type=repo_type, revision=info.sha, local_dir=partial, ignore_patterns=list(_NOT_OURS)
        )
    _remove_others(partial, sizes)
    progress.note("verifying every byte")
    try:
        _verify(partial, kind)
    except MettleError:
        # the client would take the damaged files for fetched ones
        shutil.rmtree(partial)
        raise
    with disk_errors(target, needed=0):
        os.rename(partial, target)
        sync_folder(target.parent)
    return PullReport(target, kind, str(info.sha), len(sizes), sum(sizes.values()))


def _find(api: HfApi, address: Address) -> tuple[str, Any]:
    """The kind of the repository and what is in it: a model's is looked for first, where nobody says which."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    kinds = (address.kind,) if address.kind else ("model", "dataset")
    for kind in kinds[:-1]:
        try:
            return kind, _info(api, address, kind)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            continue
    return kinds[-1], _info(api, address, kinds[-1])


def _info(api: HfApi, address: Address, kind: str) -> Any:
    return api.repo_info(address.repo, repo_type=kind, revision=address.revision, files_metadata=True)


def _kind(address: Address, sizes: Mapping[str, int]) -> str:
    for name in sizes:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or {"..", _CLIENT} & set(parts):
            raise HubError(f"{address}: holds a file whose name may not be one of ours: {name!r}")
    if ROOT in sizes:
        if READY not in sizes:
            raise HubError(f"{address}: the store is not there to its end", hint="push it again, which goes on")
        return "store"
    if "config.json" in sizes:
        return "run"
    if any(PurePosixPath(name).name == "config.json" for name in sizes):
        return "runs"
    if HEAD in sizes:
        return "head"
    raise HubError(f"{address}: neither a store nor runs of mettle-cache, or not pushed to the end")


def _remove_others(partial: Path, sizes: Mapping[str, int]) -> None:
    """Leave what the repository lists: no notes of the client, nor what an attempt fetched of another commit."""
    shutil.rmtree(partial / _CLIENT, ignore_errors=True)
    for path in partial.rglob("*"):
        if not path.is_dir() and path.relative_to(partial).as_posix() not in sizes:
            path.unlink()


def _verify(partial: Path, kind: str) -> None:
    if kind == "store":
        report = verify_store(partial, deep=True)
        if report.problems or not report.finished:
            first = f" ({report.problems[0]})" if report.problems else ""
            raise StoreCorruptError(f"what came is not the store that was pushed{first}", hint="pull it again")
    elif kind == "head":
        if not file_seal_fits(partial / HEAD):
            raise StoreCorruptError("what came is not the head that was pushed", hint="pull it again")
    else:
        for run in find_runs(partial):
            folder = RunFolder(run)
            for name in folder.read_config().files:
                folder.check(run / name)
