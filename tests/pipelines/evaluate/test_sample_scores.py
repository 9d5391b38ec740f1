"""What each sample scored, beside a run's predictions."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.evaluate.sample_scores import read_sample_scores, sample_scores_file, sample_scores_table
from mettle_cache.pipelines.train.run_folder import RunFolder


def test_a_file_gives_back_what_was_written(tmp_path):
    place = sample_scores_file(tmp_path, "val")
    pq.write_table(sample_scores_table([4, 7], ["a", "b"], {"accuracy": np.array([50.0, 100.0])}), place)
    scores = read_sample_scores(RunFolder(tmp_path), "val")
    assert (scores.rows, scores.clips, scores.terms["accuracy"].tolist()) == ((4, 7), ("a", "b"), [50.0, 100.0])
    assert read_sample_scores(RunFolder(tmp_path), "test") is None


def test_another_version_s_file_is_refused(tmp_path):
    place = sample_scores_file(tmp_path, "test")
    table = sample_scores_table([4], ["a"], {"accuracy": np.array([50.0])})
    pq.write_table(table.replace_schema_metadata({"format": "mettle-samples-9"}), place)
    with pytest.raises(RunError, match="its format is mettle-samples-9") as error:
        read_sample_scores(RunFolder(tmp_path), "test")
    assert error.value.hint == f"write them again: mettle evaluate {tmp_path}"
