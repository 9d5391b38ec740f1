import pyarrow as pa

from mettle_cache.samples import clips_of_samples


def test_a_sample_is_one_clip_or_the_clips_that_it_lists():
    one = pa.table({"clip": ["a", "b", "a"]})
    assert clips_of_samples(one) == [("a",), ("b",), ("a",)]
    several = one.append_column("clips", [[["a_1"], ["b_1", "b_2"], []]])
    assert clips_of_samples(several) == [("a_1",), ("b_1", "b_2"), ()]
