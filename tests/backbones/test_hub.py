"""Pretrained weights, with and without the hub."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.backbones import create_backbone
from mettle_cache.backbones.hub import fetch_pretrained
from mettle_cache.errors import WeightsError

REPOSITORY = "timm/test_vit.r160_in1k"


@pytest.fixture
def closed_port(monkeypatch, tmp_path):
    """A hub that nobody answers for: a port of this machine that was just free."""
    from huggingface_hub import constants

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return port


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_an_unreachable_hub_says_within_seconds_what_to_run(closed_port, modality):
    started = time.monotonic()
    with pytest.raises(
        WeightsError, match=f"'test_vit'.*not in the hub's cache.*{closed_port}.*cannot be reached"
    ) as e:
        create_backbone("test_vit", modality=modality)
    assert time.monotonic() - started < 10
    assert f"--{modality} test_vit=FILE" in (e.value.hint or "")
    assert f"--{modality} test_vit=random --seed N" in (e.value.hint or "")


def test_offline_mode_is_named(closed_port, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids fetching"):
        create_backbone("test_vit")


def test_a_model_without_published_weights_says_so():
    with pytest.raises(WeightsError, match="no pretrained weights for 'swinv2_cr_tiny_224'"):
        create_backbone("swinv2_cr_tiny_224")


def test_cached_weights_need_no_hub(closed_port, tmp_path):
    """In the cache's own layout: a snapshot by commit, and the ref that names it."""
    original = create_backbone("test_vit", weights="random", seed=9)
    folder = tmp_path / "cache" / "models--timm--test_vit.r160_in1k"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    save_file(original.trunk.network.state_dict(), snapshot / "model.safetensors")
    assert fetch_pretrained("test_vit", REPOSITORY, None, "--visual") == snapshot / "model.safetensors"
    loaded = create_backbone("test_vit")
    assert loaded.weights_source == f"hub {REPOSITORY}"
    assert loaded.fingerprint()["weights"] == {"kind": "pretrained", "digest": original.trunk.digest}
    x = torch.ones(1, 3, 160, 160)
    assert torch.equal(loaded.forward_tokens(x)["visual/s1b06"], original.forward_tokens(x)["visual/s1b06"])


def test_a_hub_that_answers_but_has_not_the_file_is_reported(monkeypatch, tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from huggingface_hub import constants

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    try:
        with pytest.raises(WeightsError, match="'test_vit' could not be fetched from timm/test_vit"):
            fetch_pretrained("test_vit", REPOSITORY, None, "--visual")
    finally:
        server.shutdown()
        server.server_close()
    assert not list(Path(tmp_path).rglob("*.safetensors"))
