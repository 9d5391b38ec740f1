"""What an extraction is asked: every mistake at once, parts as users count them, names that say what differs."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.pipelines.extract.config import ExtractConfig, default_store_path, parse_part
from mettle_cache.store.writing.locks import part_range


def test_all_mistakes_in_one_message():
    with pytest.raises(ConfigError) as caught:
        ExtractConfig(
            dataset="ave",
            visual="",
            audio="x=",
            part=(4, 4),
            workers=2,
            scheduler="tcp://a:1",
            precision="half",
            seed=-1,
            options=("train_frames", "x=1", "x=2"),
        )
    assert len(caught.value.problems) == 9
    assert "--option train_frames: must be NAME=VALUE" in caught.value.message
    assert "--option x=2: x is given more than once" in caught.value.message
    for option in ("--visual", "--audio", "--part 5/4", "--workers", "--precision half", "--seed -1"):
        assert option in caught.value.message


@pytest.mark.parametrize("memory", [0, 10**6, 10**18])
def test_impossible_memory(memory):
    with pytest.raises(ConfigError, match=r"--memory .* must be from 64\.0 MB to 1000 TB"):
        ExtractConfig(dataset="ave", memory=memory)


@pytest.mark.parametrize(("workers", "total"), [(0, 4 * 10**9), (1, 4 * 10**9), (2, 2 * 10**9), (8, 10**9)])
def test_workers_share_the_memory_but_a_clip_may_take_the_same_in_each(workers, total):
    budget = ExtractConfig(dataset="ave", workers=workers).memory_budget
    assert (budget.total, budget.clip_limit) == (total, 10**9)


def test_shared_has_no_weights_of_its_own():
    with pytest.raises(ConfigError, match=r"--audio shared=a.pt: shared has the weights of --visual; it is shared or"):
        ExtractConfig(dataset="ave", audio="shared=a.pt")


@pytest.mark.parametrize("workers", [-1, 5000])
def test_an_impossible_number_of_workers(workers):
    with pytest.raises(ConfigError, match=f"--workers {workers}"):
        ExtractConfig(dataset="ave", workers=workers)


@pytest.mark.parametrize("clips", [0, -1, 4097])
def test_an_impossible_number_of_clips_in_a_shard(clips):
    with pytest.raises(ConfigError, match=f"--clips-per-shard {clips}: must be from 1 to 4,096"):
        ExtractConfig(dataset="ave", clips_per_shard=clips)


@given(clips=st.integers(1, 200), parts=st.integers(1, 12))
def test_parts_are_disjoint_and_cover_everything(clips, parts):
    ranges = [part_range(parse_part(f"{number}/{parts}"), clips) for number in range(1, parts + 1)]
    assert [clip for part in ranges for clip in part] == list(range(clips))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "1/2\n", "١/٢"])
def test_what_is_no_part(text):
    with pytest.raises(UsageError, match="must be i/n"):
        parse_part(text)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "ave-swinv2_l-htsat.zarr"),
        ({"codec": "int4"}, "ave-swinv2_l-htsat-int4.zarr"),
        ({"layers": "all"}, "ave-swinv2_l-htsat.zarr"),
        ({"layers": "stages", "audio": "shared"}, "ave-swinv2_l-shared-stages.zarr"),
        ({"audio": "shared=mean"}, "ave-swinv2_l-shared_mean.zarr"),
        ({"layers": "last:2", "codec": "float16"}, "ave-swinv2_l-htsat-float16-last_2.zarr"),
        ({"visual": "vit_l16@96=/a/b.safetensors", "layers": "visual/s1"}, "ave-vit_l16@96-htsat-visual_s1.zarr"),
    ],
)
def test_the_default_place_says_what_is_not_the_default(options, name):
    assert default_store_path(ExtractConfig(dataset="ave", **options)) == Path("cache") / name


def test_two_folders_of_a_user_s_own_clips_have_two_stores():
    first, second = (ExtractConfig(dataset="folder", root=Path("clips") / name) for name in ("dogs", "my birds"))
    assert default_store_path(first) == Path("cache/folder-dogs-swinv2_l-htsat.zarr")
    assert default_store_path(second) == Path("cache/folder-my_birds-swinv2_l-htsat.zarr")
    assert default_store_path(ExtractConfig(dataset="folder")) == Path("cache/folder-swinv2_l-htsat.zarr")


def test_options_that_are_chosen_are_part_of_the_name():
    usual, chosen = (ExtractConfig(dataset="avs-s4", options=(f"train_frames={n}",)) for n in (1, 5))
    assert default_store_path(usual) == Path("cache/avs-s4-swinv2_l-htsat.zarr")
    assert default_store_path(chosen) == Path("cache/avs-s4-swinv2_l-htsat-train_frames_5.zarr")
    assert (usual.dataset_options, chosen.chosen_options) == ({"train_frames": "1"}, ["train_frames=5"])
    with pytest.raises(UsageError, match="has no option 'frames'"):
        default_store_path(ExtractConfig(dataset="avs-s4", options=("frames=1",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "nosuch"}, "no data set is called 'nosuch'"),
        ({"options": ("colour=1",)}, "the data set ave has no option 'colour'"),
        ({"root": Path("nowhere")}, "the ave folder nowhere does not exist"),
        ({"codec": "int5"}, "no codec is called 'int5'"),
        ({"device": "gpu"}, "there is no device called 'gpu'"),
        ({"visual": "swinv2_1"}, "unknown backbone 'swinv2_1'"),
        ({"visual": "htsat"}, "reads sound, not pictures"),
        ({"layers": "visual/s9"}, "no such layer: visual/s9"),
        # the visual one reads the sound: four stages of its own
        ({"audio": "shared", "layers": "audio/s3b19"}, "no such layer: audio/s3b19"),
    ],
)
def test_names_that_nothing_answers_to_are_refused_early(tmp_path, change, message):
    config = replace(ExtractConfig(dataset="ave", root=tmp_path), **change)
    with pytest.raises(UsageError, match=message):
        config.check_names()


@pytest.mark.parametrize("change", [{}, {"audio": "shared"}, {"visual": "test_vit@64=random", "layers": "visual/s9"}])
def test_what_can_only_be_seen_in_a_network_is_left_to_it(tmp_path, change):
    replace(ExtractConfig(dataset="ave", root=tmp_path), **change).check_names()
