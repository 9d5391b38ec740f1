"""Figures from runs: which are drawn, how they are called, and what is said of those that are not."""

import shutil

import pytest

from mettle_cache.errors import OptionsError, RunError, UsageError
from mettle_cache.pipelines.figures.compute.loss_landscape import LandscapeOptions
from mettle_cache.pipelines.figures.compute.meta_token_map import MapOptions
from mettle_cache.pipelines.figures.draw import draw_figures
from mettle_cache.pipelines.figures.kinds import FigureOptions
from mettle_cache.store import TokenStore
from tests.pipelines.figures.conftest import train_run
from tests.pipelines.listener import Listener

QUICK = {"landscape": LandscapeOptions(grid=3, clips=4), "maps": MapOptions(perplexity=5.0, segments=60)}


def stems(written):
    assert [path.suffix for path in written] == [".png", ".svg"] * (len(written) // 2)
    assert all(path.stat().st_size > 1000 for path in written)
    return [path.stem for path in written[::2]]


@pytest.mark.slow
def test_all_that_events_give(trained_run, linear_run, tiny_ave, tmp_path):
    notes = Listener()
    written = draw_figures([trained_run.parent], tmp_path / "figures", notes, FigureOptions(**QUICK))
    assert stems(written) == [
        "ave-learning-curves",
        "ave-loss-landscape",
        "ave-meta-tokens-lcd",
        "ave-meta-tokens-linear",
        "ave-timelines",
        "ave-attention-lcd",
        "ave-cosines-lcd",
        "ave-layer-similarity",
    ]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in written)
    said = "\n".join(notes.notes)
    assert "no attention: linear: no visual layer is distilled by attention" in said
    assert "no cosines: linear: there are no tokens of several layers" in said


def test_only_what_is_asked_for(trained_run, tmp_path):
    written = draw_figures([trained_run], tmp_path, options=FigureOptions(only=("learning-curves",)))
    assert stems(written) == ["ave-learning-curves"]
    with pytest.raises(OptionsError, match="only: there is no figure 'landscape'; there are learning-curves, loss-"):
        FigureOptions(only=("landscape",))


def test_a_store_that_is_gone_leaves_the_learning_curves(tiny_store, tmp_path):
    store = tiny_store(5, 3, 3)
    moved = shutil.copytree(store.path, tmp_path / "moved.zarr")

    run = train_run(TokenStore.open(moved), tmp_path / "run")
    shutil.rmtree(moved)
    notes = Listener()
    assert stems(draw_figures([run], tmp_path / "figures", notes)) == ["ave-learning-curves"]
    assert any(f"run is in no figure of tokens: {run}: its store is not at {moved}" in note for note in notes.notes)
    written = draw_figures([run], tmp_path / "figures", notes, FigureOptions(only=("timelines",)), store=store.path)
    assert stems(written) == ["ave-timelines"]
    with pytest.raises(RunError, match="none of the 1 runs gives a figure"):
        draw_figures([run], tmp_path / "figures", notes, FigureOptions(only=("timelines",)))


def test_a_split_that_is_not_there(trained_run, tmp_path):
    with pytest.raises(UsageError, match="there is no split 'tset'") as error:
        draw_figures([trained_run], tmp_path, options=FigureOptions(split="tset"))
    assert "did you mean test?" in error.value.hint
