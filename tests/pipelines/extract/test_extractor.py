"""A clip's bytes depend on the clip alone: not on its neighbours in a batch, nor on cores."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.compliance import kaldi

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    build_extractor,
    extraction_key,
    open_config_dataset,
    provenance,
)
from mettle_cache.pipelines.extract.stream import reproducible_passes
from tests.datasets.avsbench_files import write_ms3
from tests.pipelines.extraction import tiny, write_clips


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    root = write_clips(tmp_path_factory.mktemp("extractor") / "AVE")
    return build_extractor(tiny(root, root), open_dataset("ave", root))


@dataclass(frozen=True, eq=False)
class ThreeTogether(Extractor):
    """Batches of several clips, as on a GPU."""

    clips_a_batch = 3


def together(extractor):
    return ThreeTogether(**{name: getattr(extractor, name) for name in extractor.__dataclass_fields__})


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(getattr(first[name], part), getattr(second[name], part))
        for name in first
        for part in ("codes", "scale", "zero")
    )


def test_neighbours_in_a_batch_change_nothing(extractor):
    several = together(extractor)
    clips = [several.prepare(index) for index in (3, 4, 5)]
    all_three = several.encode(clips)
    for clip in clips:
        assert same(several.encode([clip])[clip.index], all_three[clip.index])


def test_groups_follow_from_the_indexes_alone(extractor):
    several = together(extractor)
    assert several.groups([0, 1, 2, 3, 5, 7]) == [[0, 1, 2], [3, 5], [7]]
    assert several.groups([5]) == [[5]]
    assert extractor.groups([4, 7]) == [[4], [7]]


def test_the_number_of_threads_does_not_reach_the_bytes(extractor):
    clip = extractor.prepare(1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with reproducible_passes(extractor.device):
                results.append(extractor.encode([clip])[1])
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_only_the_chosen_layers_come_out_in_their_shapes(extractor):
    codes = extractor.encode([extractor.prepare(0)])[0]
    assert list(codes) == [layer.name for layer in extractor.layers]
    for layer in extractor.layers:
        assert codes[layer.name].codes.shape == (10, layer.tokens, layer.width)
        assert codes[layer.name].codes.device.type == "cpu"


def test_passes_at_once_are_bounded_by_cores_and_by_memory(extractor, monkeypatch):
    assert 1 <= extractor.passes_at_once <= extractor.cores
    many = Extractor(**{**{name: getattr(extractor, name) for name in extractor.__dataclass_fields__}, "cores": 64})
    assert many.passes_at_once > extractor.passes_at_once or extractor.cores >= 64

    class Little:
        available = 1

    monkeypatch.setattr("mettle_cache.pipelines.extract.extractor.psutil.virtual_memory", lambda: Little)
    assert many.passes_at_once == 1


def test_beside_a_gpu_every_core_decodes_and_on_a_cpu_passes_have_them(extractor):
    of_three_cores = replace(extractor, cores=3)
    assert of_three_cores.decoders == of_three_cores.passes_at_once + 1
    assert replace(of_three_cores, device=torch.device("cuda")).decoders == 4


def test_reasons_do_not_tell_the_place_of_the_data(extractor):
    root = extractor.dataset.root
    assert extractor.describe(MediaError(f"{root}/frames/x/1.jpg is broken")) == "frames/x/1.jpg is broken"


def _kaldi(samples, rate):
    """The five pictures that LAVISH's published command makes of a sound file's samples."""
    spectra = []
    for start in np.linspace(0, len(samples) - rate * 1.1, num=5, dtype=int):
        window = torch.from_numpy(samples - samples.mean())[None, start : start + rate]
        spectrum = kaldi.fbank(
            window, htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning",
            num_mel_bins=192, dither=0.0, frame_shift=10,
        )  # fmt: skip
        picture = torch.zeros(192, 192)
        picture[: len(spectrum)] = (spectrum + 5.210531711578369) / (2 * 3.5918314456939697)
        spectra.append(picture)
    return torch.stack(spectra)


@pytest.mark.parametrize("arrays_too", [False, True])
def test_shared_sound_of_avsbench_is_the_first_channel_as_published(tmp_path, arrays_too):
    root = write_ms3(tmp_path / "avs", waves=False)
    if arrays_too:
        write_ms3(root)
    for path in root.rglob("*.wav"):
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, (5 * 22_050, 2))
        soundfile.write(path, noise * [1, 0.05], 22_050)
    published, mean = (
        ExtractConfig(dataset="avs-ms3", root=root, visual="test_vit@192=random", audio=audio)
        for audio in ("shared", "shared=mean")
    )
    heard = build_extractor(published, open_config_dataset(published))
    averaged = build_extractor(mean, open_config_dataset(mean))
    recording, rate = soundfile.read(heard.dataset.clips[2].audio, dtype="float32")
    expected = _kaldi(recording[:, 0].copy(), rate)[2]
    assert torch.allclose(heard.prepare(2).inputs[1][0, 0], expected, atol=1e-4)
    assert (averaged.prepare(2).inputs[1][0, 0] - expected).abs().max() > 0.1
    keys = [
        extraction_key(*pair)["backbones"]["audio"]["preprocessing"] for pair in ((heard, published), (averaged, mean))
    ]
    assert [key.get("sound_files") for key in keys] == ["first channel at its own rate", None]
    said = [provenance(config) for config in (published, mean)]
    assert [words["sound"] for words in said] == [
        "first channel of a .wav at its own rate",
        "mean of the channels",
    ]
    assert "--audio shared=mean" in said[1]["command"]


def test_mono_files_of_16_khz_sound_the_same_either_way(tmp_path):
    root = write_clips(tmp_path / "AVE", train=1)
    (clip, *_) = open_dataset("ave", root).clips
    pictures = []
    for audio in ("shared", "shared=mean"):
        config = tiny(root, root, audio=audio)
        (root / "wave").mkdir(exist_ok=True)
        soundfile.write(root / "wave" / f"{clip.id}.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 160_000), 16_000)
        pictures.append(build_extractor(config, open_config_dataset(config)).prepare(0).inputs[1])
    assert torch.equal(*pictures)
