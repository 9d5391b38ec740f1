"""What doctor finds, and what it advises where something is missing."""

from types import SimpleNamespace

import pytest

from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.datasets.synthetic.llp import write_demo_llp
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


@pytest.mark.parametrize(
    ("folder", "dataset", "write"), [("AVE", "ave", write_demo_ave), ("AVVP", "llp", write_demo_llp)]
)
def test_data_in_its_place_leads_to_the_plan(empty_folder, folder, dataset, write):
    write(empty_folder / "data" / folder)
    diagnosis = examine(measure=False)
    assert diagnosis.next_command == f"mettle plan --dataset {dataset}"
    assert "clips" in by_topic(diagnosis)[f"dataset {dataset}"].found


def test_an_empty_folder_in_a_data_set_s_place_is_no_data_set(empty_folder):
    for folder in ("AVE", "AVVP", "folder", "AVQA", "AVSBench_data"):
        (empty_folder / "data" / folder).mkdir(parents=True)
    diagnosis = examine(measure=False)
    assert diagnosis.next_command == "mettle demo"
    data = [finding for finding in diagnosis.findings if finding.topic.startswith("dataset ")]
    assert len(data) >= 6
    for finding in data:
        assert not finding.ok
        assert "is an empty folder" in finding.found
        assert "layouts: " in finding.advice


def test_broken_annotations_and_missing_media_are_findings(empty_folder):
    root = empty_folder / "data" / "AVE"
    write_demo_ave(root, train=2, val=1, test=1, layout="mp4")
    next((root / "AVE").glob("*.mp4")).unlink()
    finding = by_topic(examine(measure=False))["dataset ave"]
    assert (finding.ok, finding.found) == (False, "data/AVE: 4 clips, media of 1 are missing or unreadable")
    assert "mettle extract --dataset ave" in finding.advice
    (root / "Annotations.txt").write_bytes(b"\xff\xfe nothing of the kind")
    finding = by_topic(examine(measure=False))["dataset ave"]
    assert not finding.ok
    assert finding.found.startswith("data/AVE: ")


def test_a_file_in_a_data_set_s_place_is_a_finding(empty_folder):
    (empty_folder / "data").mkdir()
    (empty_folder / "data" / "AVE").touch()
    assert "is a file, not a folder" in by_topic(examine(measure=False))["dataset ave"].found


def test_weights_in_their_place_are_found_unless_empty(empty_folder):
    (empty_folder / "weights").mkdir()
    (empty_folder / "weights" / "HTSAT_AudioSet_Saved_1.ckpt").write_bytes(b"weights")
    assert by_topic(examine(measure=False))["weights htsat"].ok
    (empty_folder / "weights" / "HTSAT_AudioSet_Saved_1.ckpt").write_bytes(b"")
    finding = by_topic(examine(measure=False))["weights htsat"]
    assert not finding.ok
    assert finding.found.endswith("HTSAT_AudioSet_Saved_1.ckpt is empty")


def test_what_cannot_be_examined_hides_nothing_else(empty_folder, monkeypatch):
    def fail():
        raise ImportError("libtorch.so: no such file")

    monkeypatch.setattr(doctor, "examine_device", fail)
    monkeypatch.setenv("METTLE_WEIGHTS", "s3://bucket/weights")
    findings = by_topic(examine(measure=False))
    assert findings["device"].found == "cannot be examined: ImportError: libtorch.so: no such file"
    assert any("METTLE_WEIGHTS: s3://bucket/weights is an address" in found.found for found in findings.values())
    assert findings["decoders"].ok


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
