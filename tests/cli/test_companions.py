"""What info and verify say of companions."""

from mettle_cache.cli.main import run
from mettle_cache.cli.verify import report_lines
from mettle_cache.store import VerifyReport
from mettle_cache.store.reading.clip_check import Problem
from tests.store.tiny import write_store


def report(path, **changes):
    facts = {"deep": True, "finished": True, "clips": 3, "failed": 0, "pending": 0, "nbytes": 9000}
    return VerifyReport(path=path, **(facts | {"problems": (), "damaged": ()} | changes))


def test_damage_of_a_companion_is_told_and_what_to_do(tmp_path):
    problem = Problem("it ends early", "visual/s1/c.0.0.0", "a", "visual/s1b01")
    beside = report(tmp_path / "companions" / "pooled-mean-2x2-01234567", problems=(problem,), damaged=(0,))
    whole = report(tmp_path, pooled=(beside,))
    lines = report_lines(whole, repaired=False)
    assert lines[0] == f"{tmp_path}: damaged"
    assert lines[3:] == [
        "companion  pooled-mean-2x2-01234567: damaged",
        "problem    clip a, visual/s1b01: companions/pooled-mean-2x2-01234567/visual/s1/c.0.0.0: it ends early",
        f"next       mettle verify --deep --repair {tmp_path}, then training, which makes anew what is damaged",
    ]
    assert report_lines(whole, repaired=True)[-1] == "repaired   1 clip forgotten; the next training makes them anew"


def test_one_that_is_unfinished_is_no_problem(tmp_path):
    beside = report(tmp_path / "companions" / "pooled-max-2x2-01234567", finished=False, pending=3)
    assert report(tmp_path, pooled=(beside,)).ok
    assert report_lines(report(tmp_path, pooled=(beside,)), repaired=False)[-1] == (
        "companion  pooled-max-2x2-01234567: unfinished"
    )


def test_info_lists_them(tmp_path, capsys):
    write_store(tmp_path / "s.zarr")
    folder = tmp_path / "s.zarr" / "companions"
    (folder / "pooled-mean-2x2-01234567").mkdir(parents=True)
    (folder / "notes.txt").write_bytes(bytes(1500))
    assert run(["info", str(tmp_path / "s.zarr")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "companion  notes.txt: 1.5 kB" in lines
    assert "companion  pooled-mean-2x2-01234567: 0 B, UNFINISHED: the training that wants it goes on with it" in lines
