"""Short names of runs."""

from mettle_cache.pipelines.report.run_labels import run_labels


def test_runs_are_told_apart_by_their_paths(tmp_path):
    runs = [tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-1", tmp_path / "b" / "seed-0"]
    assert run_labels(runs) == ["a/seed-0", "a/seed-1", "b/seed-0"]
    assert run_labels(runs[:2]) == ["seed-0", "seed-1"]
    assert run_labels(runs[:1]) == ["seed-0"]
    assert run_labels(runs[::2]) == ["a", "b"]
    assert run_labels([]) == []
