"""Pages of made-up runs."""

import json
import re

import pytest

from mettle_cache.pipelines.page import costs
from mettle_cache.pipelines.page.build import write_page
from mettle_cache.pipelines.page.options import PageOptions


@pytest.fixture(autouse=True)
def no_disk_measured(monkeypatch):
    """A quarter of a second a page is not needed here."""
    monkeypatch.setattr(costs, "measure_read_speed", lambda folder, nbytes: 1e9)


@pytest.fixture
def page(tmp_path):
    """Writes a page of runs: its text, the script's data and the report."""

    def write(*runs, out=tmp_path / "page.html", base=None, **options):
        report = write_page(runs, PageOptions(out=out, **options), base=base)
        text = out.read_text("utf-8")
        (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
        return text, json.loads(found), report

    return write
