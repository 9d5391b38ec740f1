"""A run's record, ``config.json``: all that decides its numbers, the place of its store, the digests of its files.

The record has a digest of its own. Runs of the first version have no digests; they stay readable.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from mettle_cache.errors import RunError, StoreMissingError
from mettle_cache.paths import command_line, local_path
from mettle_cache.pipelines.train.config import SelectOn
from mettle_cache.store.format.digests import digest_of

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.recipe import Recipe
    from mettle_cache.store.reading.token_source import TokenSource
    from mettle_cache.store.reading.token_store import TokenStore

FIRST_FORMAT = "mettle-run-1"
NO_DIGESTS = "an earlier version wrote this run without digests of its files: damage to them would go unnoticed"
# of a recipe's keys the one that may grow: the schedule does not depend on it, so the epochs that are done are the same
_EPOCHS = "train.epochs"


@dataclass(frozen=True, kw_only=True)
class StoreReference:
    """The store that a run was trained from. ``content`` is the digest of its tokens; runs had none of it at first.

    ``computed`` is how the tokens were computed where no store had them (``pipelines.online``): then ``path`` is where
    their store would be.
    """

    path: str
    key_digest: str
    dataset: str
    codec: str
    content: str = ""
    computed: dict[str, Any] | None = None

    @classmethod
    def of(cls, store: TokenSource) -> StoreReference:
        return cls(
            path=str(local_path(Path(store.path).resolve())),
            key_digest=store.key_digest,
            dataset=store.dataset,
            codec=store.codec,
            content=store.content_digest,
            computed=None if store.computed is None else dict(store.computed),
        )

    def has_changed(self, content: str) -> bool:
        """Whether tokens with the digest ``content`` are known to be others than those of this store."""
        return bool(self.content and content) and content != self.content

    def open(self, run: Path, *, instead: Path | TokenStore | None = None, option: str = "--store") -> TokenStore:
        """That store, or ``instead`` in its place, which must hold the same tokens.

        ``run`` and ``option``, which names the place, are for the messages.

        Raises
        ------
        StoreMissingError
            There is none.
        RunError
            Its key is another one: its tokens would mean something else.
        """
        from mettle_cache.store.reading.token_store import TokenStore  # zarr takes long to import

        place = Path(self.path) if instead is None else instead
        try:
            store = TokenStore.open(place) if isinstance(place, Path) else place
        except StoreMissingError as error:
            hint = f"name the store's new place with {option}"
            if self.computed is not None:  # it was computed, and there never was one
                hint = f"make it: {command_line('mettle extract', *self.computed['options'])}; or {hint}"
            raise StoreMissingError(f"{run}: its store is not at {place}", hint=hint) from error
        self.check(run, store)
        return store

    def check(self, run: Path, store: TokenSource) -> None:
        """Refuse tokens that are others than those of this store. Raises RunError."""
        if store.key_digest != self.key_digest:
            raise RunError(
                f"{run}: trained from a store with key {self.key_digest}; {store.path} has {store.key_digest}",
                hint="use the run's own store, or train again from this one",
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``files`` are the digests of the run's files by name; ``variant`` tells it from those trained with it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    recipe: dict[str, Any]
    seed: int
    select_on: SelectOn
    store: StoreReference
    variant: str = ""
    files: dict[str, str] = field(default_factory=dict)
    format: Literal["mettle-run-1", "mettle-run-2"] = "mettle-run-2"

    @classmethod
    def from_bytes(cls, data: bytes) -> RunConfig:
        """The inverse of :meth:`to_bytes`. Raises ValueError for anything else."""
        try:
            table = json.loads(data)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        stated = table.pop("digest", None) if isinstance(table, dict) else None
        config: RunConfig = TypeAdapter(cls).validate_json(json.dumps(table))
        if stated != (digest_of(table) if config.has_digests else None):
            raise ValueError("it is damaged or was changed by hand: its digest is another one")
        return config

    def to_bytes(self) -> bytes:
        """The record as a file's content, with its own digest."""
        table = asdict(self)
        if self.store.computed is None:  # as earlier versions write and read it
            del table["store"]["computed"]
        return (json.dumps({**table, "digest": digest_of(table)}, indent=2) + "\n").encode()

    @property
    def has_digests(self) -> bool:
        """Whether the record lists digests of the run's files, as all but the first version's do."""
        return self.format != FIRST_FORMAT

    @property
    def identity(self) -> str:
        """A digest that tells this run from others; it stays when the run gets longer or its store moves."""
        decides = _deciding(self, resolved=False)
        return digest_of({key: value for key, value in decides.items() if not _is_epochs(key)})

    def load_recipe(self) -> Recipe:
        """The recipe as options. Raises ConfigError where this version knows no such recipe."""
        from mettle_cache.pipelines.train.recipe import recipe_from_json

        return recipe_from_json(self.recipe, where="the run's config.json")

    def continued_by(self, asked: RunConfig) -> tuple[RunConfig, list[str]]:
        """This run as it goes on by a request, and what keeps it from that: keys that differ, with both values.

        It may get longer, and its store may have moved.
        """
        here, there = _deciding(self), _deciding(asked)
        problems, longer = [], False
        for key in dict.fromkeys((*here, *there)):
            ours, theirs = here.get(key, "not set"), there.get(key, "not set")
            if ours == theirs:
                continue
            if _is_epochs(key) and key in here and key in there:
                longer = theirs > ours
                problems += [] if longer else [f"{key} = {ours} there, {theirs} was asked for: it can only get longer"]
            else:
                problems.append(f"{key} = {ours} there, {theirs} was asked for")
        if self.store.key_digest == asked.store.key_digest and self.store.has_changed(asked.store.content):
            problems.append("the store's clips were extracted again, or added, since the run began")
        recipe = asked.recipe if longer else self.recipe
        return replace(self, recipe=recipe, store=asked.store, variant=self.variant or asked.variant), problems


def _deciding(config: RunConfig, *, resolved: bool = True) -> dict[str, Any]:
    """All that decides a run's numbers, by dotted key; ``resolved`` as this version would write it."""
    from mettle_cache.pipelines.train.recipe import flatten_recipe, resolve_recipe

    recipe = flatten_recipe(resolve_recipe(config.recipe) if resolved else config.recipe)
    return {**recipe, "seed": config.seed, "select_on": config.select_on, "store": config.store.key_digest}


def _is_epochs(key: str) -> bool:
    return key == _EPOCHS or key.endswith(f".{_EPOCHS}")
