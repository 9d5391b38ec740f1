import json

import pytest
import torch
from safetensors.torch import load_file

from mettle_cache.decoders.avqa_grounding import GroundingNet
from mettle_cache.errors import ConfigError, RunError, UsageError, WeightsError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.train.grounding import GroundingJob, one_sample_a_video, pretrain_grounding
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.training import train
from mettle_cache.tasks.avqa.grounding import load_grounding
from tests.pipelines.tiny_avqa import write_tiny_avqa
from tests.pipelines.tiny_store import write_tiny_store

SMALL = ["lcd.heads=4", "train.epochs=2", "train.batch_size=8"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_tiny_avqa(tmp_path_factory.mktemp("avqa") / "store.zarr")


def job(store, out, **changes):
    return GroundingJob(store=store.path, out=out, videos_a_step=6, learning_rate=3e-3, **{"epochs": 4, **changes})


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("grounding") / "grounding.safetensors"
    return pretrain_grounding(job(store, out, epochs=12))


def test_it_learns_which_picture_belongs_to_which_sound(trained):
    # a quarter of the negatives have the same instrument and cannot be told
    assert trained.accuracy > 75
    assert trained.videos == {"train": 21, "val": 7}
    assert json.loads(json.dumps(trained.to_json()))["accuracy"] == trained.accuracy


def test_the_file_holds_seven_layers_by_their_published_names(trained):
    tensors = load_file(trained.out)
    names = [
        f"{layer}.{part}"
        for layer in ("fc_a1", "fc_a2", "fc_gl", "fc1", "fc2", "fc3", "fc4")
        for part in ("bias", "weight")
    ]
    assert sorted(tensors) == sorted(names)
    assert tensors["fc_a1.weight"].shape == (16, 8)
    assert sum(tensor.numel() for tensor in tensors.values()) == trained.parameters


def test_only_recorded_videos_are_used_unless_all_are_asked_for(store):
    real, every = (one_sample_a_video(store, "train", videos) for videos in ("real", "all"))
    assert (len(real), len(every)) == (21, 24)
    clips = store.samples["clip"].to_pylist()
    assert all(clips[row].isdigit() for row in real.rows)
    assert len({clips[row] for row in every.rows}) == 24


def test_a_stopped_run_goes_on_to_the_same_bits(store, tmp_path, monkeypatch):
    whole = pretrain_grounding(job(store, tmp_path / "whole.safetensors"))
    cut = tmp_path / "cut.safetensors"
    ended, end_epoch = [], Run.end_epoch

    def stop_after_two(run, *arguments, **options):
        line = end_epoch(run, *arguments, **options)
        ended.append(line)
        if len(ended) == 2:
            raise KeyboardInterrupt
        return line

    with monkeypatch.context() as patched:
        patched.setattr(Run, "end_epoch", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            pretrain_grounding(job(store, cut))
    assert not cut.exists()
    resumed = pretrain_grounding(job(store, cut, resume=True))
    assert resumed.accuracy == whole.accuracy
    assert cut.read_bytes() == whole.out.read_bytes()


def test_a_run_that_is_there_is_not_overwritten(store, trained, tmp_path):
    before = trained.out.read_bytes()
    with pytest.raises(RunError, match="a run is here already"):
        pretrain_grounding(job(store, trained.out))
    foreign = tmp_path / "mine.safetensors"
    foreign.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"mine\.safetensors is there already, and no run of this command wrote it"):
        pretrain_grounding(job(store, foreign))
    assert foreign.read_bytes() == b"mine"
    assert trained.out.read_bytes() == before
    with pytest.raises(UsageError, match=r"the file is a \.safetensors one\n  next: --out .*grounding\.safetensors"):
        pretrain_grounding(job(store, tmp_path / "grounding.pt"))


def test_stores_that_cannot_be_used_are_refused(tmp_path):
    other = write_tiny_store(tmp_path / "ave.zarr", 2, 1, 1)
    with pytest.raises(UsageError, match=r"grounding is trained for music-avqa; .*ave\.zarr is of ave"):
        pretrain_grounding(job(other, tmp_path / "g.safetensors"))
    lonely = write_tiny_avqa(tmp_path / "one.zarr", 1, 1, 1)
    with pytest.raises(UsageError, match=r"train has 1 real videos with tokens.*\n  next: .*--videos all"):
        pretrain_grounding(job(lonely, tmp_path / "g.safetensors"))
    assert not (tmp_path / "g").exists()


def test_without_val_videos_the_last_epoch_is_kept(tmp_path):
    store = write_tiny_avqa(tmp_path / "store.zarr", 4, 1, 1)
    report = pretrain_grounding(job(store, tmp_path / "g.safetensors", epochs=2))
    assert (report.accuracy, report.best_epoch, report.videos) == (None, 2, {"train": 4})


def test_all_wrong_options_are_told_together():
    with pytest.raises(ConfigError) as caught:
        GroundingJob(videos="some", learning_rate=float("nan"), epochs=0)
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0] == "--videos some: choose one of real, all"


def train_from(store, out, *overrides, **options):
    return train(store, recipe=load_recipe("music-avqa-small", [*SMALL, *overrides]), out=out, **options)


def weights(run):
    return {name: value for name, value in load_file(run / "best.safetensors").items() if ".grounding." in name}


@pytest.mark.parametrize("published", [False, True])
def test_the_head_starts_from_the_file(store, trained, tmp_path, published):
    file = trained.out
    if published:  # as the peers save it: every name after module., and unused layers beside the seven
        tensors = {f"module.{name}": value for name, value in load_file(trained.out).items()}
        file = tmp_path / "lavish_grounding_gen_best.pt"
        torch.save({**tensors, "module.fc_a1_pure.weight": torch.zeros(3)}, file)
    # so small a rate that the weights are still those of the file
    train_from(store, tmp_path / "run", f"head.init_grounding='{file}'", "train.learning_rate=1e-12", "train.epochs=1")
    expected = load_file(trained.out)
    for name, value in weights(tmp_path / "run").items():
        assert torch.allclose(value, expected[name.rpartition(".grounding.")[2]], atol=1e-8)


def test_the_file_is_wanted_at_the_start_only(store, trained, tmp_path):
    file = tmp_path / "gone.safetensors"
    file.write_bytes(trained.out.read_bytes())
    whole = train_from(store, tmp_path / "whole", f"head.init_grounding='{file}'")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "mettle_cache.pipelines.train.run.Run.epochs_left", property(lambda self: range(self.history.epochs, 1))
        )
        train_from(store, tmp_path / "run", f"head.init_grounding='{file}'")
    file.unlink()
    resumed = train_from(store, tmp_path / "run", f"head.init_grounding='{file}'", resume=True)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert evaluate(tmp_path / "run", store=store, pictures=False).scores["accuracy"] >= 0


def test_a_file_that_does_not_fit_leaves_no_run_behind(store, trained, tmp_path):
    with pytest.raises(
        WeightsError, match=r"grounding file .* does not fit \(.*of another shape: fc_a1.weight"
    ) as caught:
        train_from(store, tmp_path / "run", f"head.init_grounding='{trained.out}'", "head.dim=12")
    assert "head.dim = none" in (caught.value.hint or "")
    with pytest.raises(WeightsError, match=r"weights file nowhere\.pt does not exist"):
        train_from(store, tmp_path / "run", "head.init_grounding=nowhere.pt")
    part = tmp_path / "part.pt"
    torch.save({"module.fc4.weight": torch.zeros(2, 128)}, part)
    with pytest.raises(WeightsError, match=r"13 missing: fc_a1\.weight"):
        train_from(store, tmp_path / "run", f"head.init_grounding='{part}'")
    assert not (tmp_path / "run").exists()


def test_one_bit_in_a_grounding_file_is_noticed(trained, tmp_path):
    file = tmp_path / "flipped.safetensors"
    data = bytearray(trained.out.read_bytes())
    data[-7] ^= 4
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=r"grounding file .*flipped\.safetensors is damaged"):
        load_grounding(GroundingNet(8, 16), file)


def test_a_malicious_grounding_file_runs_nothing(tmp_path):
    import pickle

    class Malicious:
        def __reduce__(self):
            return (tmp_path / "made").mkdir, ()

    file = tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps({"module.fc4.weight": Malicious()}))
    with pytest.raises(WeightsError, match=r"evil\.pt is refused"):
        load_grounding(GroundingNet(8, 16), file)
    assert not (tmp_path / "made").exists()
