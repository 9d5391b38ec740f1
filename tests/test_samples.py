import pyarrow as pa

from mettle_cache.samples import clips_of_samples, training_clips


def test_a_sample_is_one_clip_or_the_clips_that_it_lists():
    one = pa.table({"clip": ["a", "b", "a"]})
    assert clips_of_samples(one) == [("a",), ("b",), ("a",)]
    several = one.append_column("clips", [[["a_1"], ["b_1", "b_2"], []]])
    assert clips_of_samples(several) == [("a_1",), ("b_1", "b_2"), ()]


def test_clips_of_training_samples_in_clip_order():
    samples = pa.table({"clip": ["b", "c", "a", "b"], "split": ["train", "test", "train", "val"]})
    assert training_clips(["c", "a", "b"], samples) == [1, 2]
    frames = pa.table({"clip": ["v", "w"], "clips": [["v0", "v1"], ["w0"]], "split": ["train", "test"]})
    assert training_clips(["v0", "v1", "w0"], frames) == [0, 1]


def test_without_training_samples_all_clips_count():
    samples = pa.table({"clip": ["b", "a"], "split": ["test", "test"]})
    assert training_clips(["a", "b"], samples) == training_clips(["a", "b"], samples.drop("split")) == [0, 1]
