"""Stores and runs to a stand-in of the hub and back, bit for bit, and all that may go wrong on the way."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from mettle_cache.errors import MettleError, StoreUnfinishedError, UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.share import push as pushing
from mettle_cache.pipelines.share.address import Address, parse_address
from mettle_cache.pipelines.share.hub import HubError
from mettle_cache.pipelines.share.pull import pull
from mettle_cache.pipelines.share.push import push
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.training import train
from tests.pipelines.listener import Listener
from tests.pipelines.share.hub_server import TOKEN, serve

# the client's own way of sending a large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PLACE = Address("me/thing")


def only_here(connect):
    """Connections to this machine; the test ends where something else is asked."""

    def create_connection(address, *rest, **options):
        assert address[0] == "127.0.0.1", f"{address} is asked"
        return connect(address, *rest, **options)

    return create_connection


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(socket, "create_connection", only_here(socket.create_connection))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def store(tiny_store):
    return Path(tiny_store(8, 4, 4).path)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("machine of its owner") / "runs" / "mine"
    train(store, recipe=load_recipe("ave-small", ["lcd.dim=16", "train.epochs=2"]), out=out)
    evaluate(out)
    return out


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in (".lock", ".finish.lock") and ".locks" not in path.parts
    }


def test_a_store_comes_back_bit_for_bit(hub, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "MOST_FILES", 3)
    monkeypatch.chdir(tmp_path)
    report = push(store, PLACE, Listener(), private=True)
    assert (report.kind, report.commit) == ("store", hub.repos["datasets", "me/thing"].branches["main"])
    there = hub.content("datasets", "me/thing")
    assert report.files == len(there) - 1
    assert hub.blobs  # large files took their own way
    card = there["README.md"].decode()
    assert card.startswith("---\nlibrary_name: mettle-cache\ntags:\n")
    assert "| clips | 15, of which 0 failed |" in card
    pulled = pull(PLACE, Listener())
    assert pulled.out == Path("cache/thing.zarr")
    assert content(pulled.out) == content(store)
    assert [path.name for path in Path("cache").iterdir()] == ["thing.zarr"]
    assert str(store).encode() not in b"".join(there.values())


def test_a_run_comes_back_verified_and_without_places_of_this_machine(hub, run, store, tmp_path):
    push(run, PLACE, Listener())
    there = hub.content("models", "me/thing")
    assert {"log.txt", "events"} & {name.split("/")[0] for name in there} == set()
    sent = b"".join(there.values())
    for place in (str(run.parents[1]), str(store.parent), str(Path.home() / "x")[:-2]):
        assert place.encode() not in sent
    pulled = pull(PLACE, Listener(), out=tmp_path / "theirs")
    ours, theirs = content(run), content(pulled.out)
    changed = {name for name in theirs if theirs[name] != ours[name]}
    assert changed == {"config.json", "result.json"}
    assert RunFolder(pulled.out).read_config().identity == RunFolder(run).read_config().identity
    scores = [evaluate(place, store=store).scores for place in (run, pulled.out)]
    assert scores[0] == scores[1]


def test_a_card_says_what_is_verified_and_what_is_not(hub, run):
    push(run, PLACE, Listener())
    card = hub.content("models", "me/thing")["README.md"].decode()
    result = json.loads((run / "result.json").read_text())
    evaluation = result["evaluation"]["test"]
    assert f"test, {evaluation['samples']} samples: accuracy {evaluation['scores']['accuracy']:.2f}" in card
    verified = card.partition("## What is verified, and what is not")[2]
    assert "Every file has a digest in the record" in verified
    assert "the epoch was selected on val" in verified
    assert "Not verified:" in verified
    for difference in evaluation["differs"]:
        assert f"- {difference}" in card


def test_a_push_and_a_pull_that_were_cut_off_go_on(hub, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "MOST_FILES", 3)
    hub.failures = [("POST", "/preupload/", 403)]
    with pytest.raises(HubError, match="the hub refuses your token"):
        push(store, PLACE, Listener())
    seen = []

    class Cut(Listener):
        def advance(self, n=1, *, nbytes=0):
            seen.append(n)
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(store, PLACE, Cut())
    with pytest.raises(HubError, match=r"the store is not there to its end|neither a store nor runs"):
        pull(PLACE, Listener(), out=tmp_path / "early.zarr")
    hub.asked.clear()
    push(store, PLACE, Listener())
    commits = [path for _, path in hub.asked if "/commit/" in path]
    assert len(commits) == -(-(len(content(store)) - 1) // 3) + 1 - 2  # those of the first push are not made again
    hub.failures = [("GET", "/resolve/", 404)]
    with pytest.raises(HubError):
        pull(PLACE, Listener(), out=tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    assert content(pull(PLACE, Listener(), out=tmp_path / "s.zarr").out) == content(store)


def test_what_came_damaged_is_refused_and_removed(hub, store, run, tmp_path):
    for path, kind, name, victim in (
        (store, "datasets", "me/tokens", "READY"),
        (store, "datasets", "me/shards", "c.0.0.0"),
        (run, "models", "me/head", "best.safetensors"),
    ):
        push(path, Address(name), Listener())
        repo = hub.repos[kind, name]
        files = dict(repo.files("main"))
        (full,) = [one for one in files if one.endswith(victim)][:1]
        files[full] = files[full][:-1] + bytes([files[full][-1] ^ 1])
        repo.commit("main", files)
        with pytest.raises(MettleError, match=r"what came is not|READY|best\.safetensors"):
            pull(Address(name), Listener(), out=tmp_path / "out")
        assert list(tmp_path.glob("*out*")) == []


def test_what_is_no_place_or_nothing_to_push_is_refused(hub, store, run, tmp_path, monkeypatch):
    assert parse_address("hf://datasets/me/a.b@v1/x") == Address("me/a.b", "v1/x", "dataset")
    for text in ("me/thing", "hf://me", "hf://me/../x", "hf://me/a b", "hf://me/thing@", "https://hub/me/thing"):
        with pytest.raises(UsageError, match="is no place on the hub"):
            parse_address(text)
    unfinished = shutil.copytree(store, tmp_path / "u.zarr")
    (unfinished / "READY").unlink()
    with pytest.raises(StoreUnfinishedError):
        push(unfinished, PLACE, Listener())
    with pytest.raises(UsageError, match="goes into a dataset repository"):
        push(store, Address("me/thing", kind="model"), Listener())
    push(run, PLACE, Listener())
    repo = hub.repos["models", "me/thing"]
    repo.commit("main", {**repo.files("main"), "other.bin": b"x"})
    with pytest.raises(UsageError, match=r"holds something else: other\.bin"):
        push(run, PLACE, Listener())
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="is there already"):
        pull(PLACE, Listener(), out=tmp_path / "taken")
    repo.commit("main", {"../evil": b"x", "config.json": b"{}"})
    with pytest.raises(HubError, match="a file whose name may not be one of ours"):
        pull(PLACE, Listener(), out=tmp_path / "evil")


def test_no_login_no_repository_no_network_and_offline_are_said(hub, run, monkeypatch):
    with pytest.raises(HubError, match="there is no such repository, or you may not see it"):
        pull(Address("me/nothing"), Listener())
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(HubError, match=r"refuses your token|no such repository") as refused:
        push(run, PLACE, Listener())
    assert "hf auth login" in refused.value.hint
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="nobody is logged in"):
        push(run, PLACE, Listener())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="the hub cannot be reached"):
        pull(PLACE, Listener())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pull(PLACE, Listener())
