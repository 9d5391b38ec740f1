"""The memory that a container leaves."""

import pytest

from mettle_cache.pipelines.control_groups import memory_left


@pytest.fixture
def group(tmp_path):
    def make(folder, **files):
        place = tmp_path / "groups" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name.replace("_dot_", ".")).write_text(f"{content}\n")

    return make


def left(tmp_path, *lines):
    (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
    return memory_left(tmp_path / "groups", tmp_path / "own")


def test_the_smallest_room_of_the_groups_around_the_process_counts(tmp_path, group):
    group("a/b", memory_dot_max="max", memory_dot_current=400)
    group("a", memory_dot_max=1000, memory_dot_current=700, memory_dot_stat="anon 500\ninactive_file 150")
    assert left(tmp_path, "0::/a/b") == 450
    group("a/b", memory_dot_max=430, memory_dot_current=400)
    assert left(tmp_path, "0::/a/b") == 30
    group("a/b", memory_dot_current=500)
    assert left(tmp_path, "0::/a/b") == 0


def test_the_first_version_has_other_files(tmp_path, group):
    files = {"memory_dot_limit_in_bytes": 900, "memory_dot_usage_in_bytes": 300}
    group("memory/docker/x", **files, memory_dot_stat="inactive_file 1\ntotal_inactive_file 50")
    assert left(tmp_path, "5:cpu:/docker/x", "4:memory:/docker/x") == 650


def test_a_path_of_the_machine_stands_for_the_container_s_own_group(tmp_path, group):
    group("memory", memory_dot_limit_in_bytes=900, memory_dot_usage_in_bytes=300)
    assert left(tmp_path, "4:memory:/somewhere/else") == 600


def test_nothing_limits_where_nothing_says_so(tmp_path, group):
    group("a", memory_dot_max="max", memory_dot_current=5)
    assert left(tmp_path, "0::/a", "3:cpu:/a") is None
    assert memory_left(tmp_path / "none", tmp_path / "nothing") is None
