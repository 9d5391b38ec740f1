"""Pages in a real browser: nothing is logged, nothing is asked of the network, nothing overflows, and controls work."""

import pytest

from tests.pipelines.page.chromium import Chromium, find_chromium
from tests.pipelines.page.run_files import TABLES, write_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on the PATH: apt-get install chromium"),
]
WIDTHS = (1280, 390)
# elements that reach beyond the window, but for those in a box of their own that scrolls or cuts them
OVERFLOWING = """
[...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || (box.right <= innerWidth + 0.5 && box.left >= -0.5)) return false;
  for (let holder = element.parentElement; holder; holder = holder.parentElement)
    if (getComputedStyle(holder).overflowX !== "visible") return false;
  return !element.classList.contains("skip");
}).map((element) => `${element.tagName} ${element.className}`)
"""
SET = """
(() => {{
  const one = document.querySelectorAll("{}")[{}];
  one.value = "{}";
  for (const name of ["input", "change"]) one.dispatchEvent(new Event(name));
}})()
"""
CARDS = "[...document.querySelectorAll('.card h3')].map((one) => one.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def look(browser, path, width, **options):
    browser.open(path.as_uri(), width, **options)
    assert browser.errors == []
    assert [address for address in browser.requests if not address.startswith("data:")] == [path.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(OVERFLOWING) == []
    assert browser.run("document.documentElement.dataset.ready") == "yes"


@pytest.mark.parametrize("task", TABLES)
def test_every_task_at_both_widths(task, browser, tmp_path, page):
    write_run(tmp_path / "lcd", task, numbers=0)
    write_run(tmp_path / "linear", task, seed=1, numbers=0, method="linear")
    page(tmp_path / "lcd", tmp_path / "linear")
    for width in WIDTHS:
        look(browser, tmp_path / "page.html", width)
    look(browser, tmp_path / "page.html", 390, scheme="dark")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"
    assert len(browser.run(CARDS)) == 6
    assert "[object" not in browser.run("document.body.innerText")


def test_sorting_filtering_and_pages(browser, tmp_path, page):
    terms = write_run(tmp_path / "run", samples=60)
    _, data, _ = page(tmp_path / "run")
    look(browser, tmp_path / "page.html", 390)
    scores = {item["id"]: item["s"][0] for item in data[0]["clips"]["items"]}
    shown = [scores[name] for name in browser.run(CARDS)]
    assert shown == sorted(terms.round(2))[:24]
    browser.run("document.querySelector('.pager button:last-child').click()")
    assert "25 to 48 of 60" in browser.run("document.querySelector('.pager').innerText")
    browser.run(SET.format(".controls select", 0, "sure"))
    sure = {item["id"]: item["x"][0] or -1 for item in data[0]["clips"]["items"]}
    shown = [sure[name] for name in browser.run(CARDS)]
    assert shown == sorted(sure.values(), reverse=True)[:24]
    browser.run(SET.format(".controls select", 1, "0"))
    goats = {item["id"] for item in data[0]["clips"]["items"] if 0 in item["g"]}
    assert 0 < len(browser.run(CARDS)) == min(len(goats), 24)
    assert set(browser.run(CARDS)) <= goats
    browser.run(SET.format("input[type=search]", 0, "nosuch"))
    assert browser.run(CARDS) == []
    assert "Nothing fits" in browser.run("document.body.innerText")


def test_many_samples_open_at_once(browser, tmp_path, page):
    write_run(tmp_path / "run", "avqa", samples=9000)
    _, _, report = page(tmp_path / "run")
    assert report.nbytes < 3_000_000
    look(browser, tmp_path / "page.html", 390)
    assert browser.run("document.querySelectorAll('*').length") < 3000


def test_keys_lead_through_a_curve(browser, tmp_path, page):
    write_run(tmp_path / "run")
    page(tmp_path / "run")
    look(browser, tmp_path / "page.html", 1280)
    browser.run(
        "(() => { const chart = document.querySelector('.curves svg'); chart.focus();"
        "chart.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' })); })()"
    )
    assert "epoch 1\n3.000" in browser.run("document.getElementById('tip').textContent")


def test_it_prints(browser, tmp_path, page):
    write_run(tmp_path / "run")
    page(tmp_path / "run")
    browser.open((tmp_path / "page.html").as_uri(), 1280, scheme="dark", media="print")
    assert browser.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
