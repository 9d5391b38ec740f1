"""The site builds without a warning, and its notebooks run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000

pytestmark = pytest.mark.docs


def test_the_site_builds_and_shows_commands_classes_and_pictures(tmp_path):
    pytest.importorskip("myst_nb")
    options = ("-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "doctrees"))
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(tmp_path / "site")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    commands = (tmp_path / "site" / "commands.html").read_text("utf-8")
    assert "--clips-per-shard N" in commands
    assert 'id="mettle-bench-read"' in commands
    api = (tmp_path / "site" / "api.html").read_text("utf-8")
    assert 'id="mettle_cache.TokenStore.open"' in api
    assert 'id="mettle_cache.errors.StoreBusyError"' in api
    for name in ("two-stages", "absorbed-attention", "store"):
        assert (tmp_path / "site" / "_images" / f"{name}.svg").is_file()
    for notebook in NOTEBOOKS:
        page = (tmp_path / "site" / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")
        assert "cell_output" in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    shown = printed(notebook)
    assert path.stat().st_size < MOST_BYTES
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [len(lines) for lines in printed(notebook)] == [len(lines) for lines in shown]


def printed(notebook):
    """The lines that each cell printed; scores may differ from machine to machine, lines do not."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 3
    return [
        [
            line
            for output in cell.outputs
            if output.output_type == "stream" and output.name == "stdout"
            for line in output.text.splitlines()
        ]
        for cell in cells
    ]
