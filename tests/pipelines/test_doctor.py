"""What doctor finds, and what it advises where something is missing."""

from types import SimpleNamespace

import pytest

from mettle_cache.pipelines import doctor
from mettle_cache.pipelines.doctor import examine


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METTLE_WEIGHTS", str(tmp_path / "nowhere"))
    return tmp_path


def by_topic(diagnosis):
    return {finding.topic: finding for finding in diagnosis.findings}


def test_an_empty_folder_leads_to_the_demo(empty_folder):
    diagnosis = examine(measure=False)
    findings = by_topic(diagnosis)
    assert diagnosis.next_command == "mettle demo"
    assert findings["torch"].found.startswith("2.11")
    assert findings["decoders"].ok
    assert not findings["dataset ave"].ok
    assert "--root" in findings["dataset ave"].advice
    assert "htsat=FILE" in findings["weights htsat"].advice
    assert "GB free" in findings["disk"].found


@pytest.mark.parametrize(("folder", "dataset"), [("AVE", "ave"), ("AVVP", "llp")])
def test_data_in_its_place_leads_to_the_plan(empty_folder, folder, dataset):
    (empty_folder / "data" / folder).mkdir(parents=True)
    assert examine(measure=False).next_command == f"mettle plan --dataset {dataset}"


def test_weights_in_their_place_are_found(empty_folder):
    (empty_folder / "weights").mkdir()
    (empty_folder / "weights" / "HTSAT_AudioSet_Saved_1.ckpt").touch()
    assert by_topic(examine(measure=False))["weights htsat"].ok


def test_the_disk_is_read_where_the_stores_will_be(empty_folder, monkeypatch):
    monkeypatch.setattr("mettle_cache.store.reading.disk_speed.PROBE_BYTES", 1 << 20)
    assert "GB/s" in by_topic(examine(empty_folder / "cache" / "deeper"))["disk"].found


@pytest.mark.parametrize(("tiles", "found"), [(True, "tiles of bytes (AMX)"), (False, "float32: no tiles of bytes")])
def test_it_says_what_codes_are_multiplied_with(empty_folder, monkeypatch, tiles, found):
    monkeypatch.setattr("mettle_cache.methods.kernels.cpu.amx.has_byte_tiles", lambda: tiles)
    assert by_topic(examine(measure=False))["products"].found.startswith(found)


def test_a_missing_package_is_a_finding(empty_folder, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    finding = by_topic(examine(measure=False))["no-such-package"]
    assert not finding.ok
    assert finding.advice == "make install"


@pytest.mark.parametrize("driver", [True, False])
def test_pytorch_is_asked_for_a_gpu_where_a_driver_offers_one(empty_folder, monkeypatch, driver):
    monkeypatch.setattr(doctor, "GPU_FILES", (empty_folder,) if driver else ())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    properties = SimpleNamespace(name="a GPU", total_memory=16e9)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: properties)
    assert by_topic(examine(measure=False))["device"].found.startswith("a GPU, 16 GB" if driver else "CPU only")
