"""The report in a real browser: nothing to complain of, every plot there, no words on others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qcmb_mpi.report.html import report_for, write_report
from tests.edge.report_cases import make_run
from tools.browser import Browser

MAX_BYTES = 5_000_000
PLOTS = [
    "Convergence with the n-body order",
    "The cluster",
    "Contributions over distance",
    "Timeline of tasks per slot",
    "Share of slots at work over time",
    "Tasks that wait over time",
    "Memory over time",
    "Measured over predicted time of a task",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module", params=[16, 64], ids=["696-tasks", "43744-tasks"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_report(folder / "page.html", report_for(make_run(folder, request.param)))
    return folder / "page.html"


def test_a_page_is_small(page: Path) -> None:
    assert 50_000 < page.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_all_and_has_nothing_to_complain_of(
    browser: Browser, page: Path, width: int, is_dark: bool
) -> None:
    browser.open(page, width=width, is_dark=is_dark)
    seen = browser.look()
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    assert [plot["label"] for plot in seen["plots"]] == PLOTS
    for plot in seen["plots"]:
        assert min(plot["width"], plot["height"]) > 70, plot["label"]
        assert plot["n_shapes"] >= 5, plot["label"]
        if plot["css"] != "scene":  # the numbers of fragments lie where the fragments are
            assert plot["overlaps"] == [], plot["label"]
        assert plot["outside"] == [], plot["label"]
    assert not seen["is_too_wide"]
    assert seen["title"] == "waters - qcmb_mpi"
    for words in ("Largest trimers", "Slowest tasks", "1 of ", "node1"):
        assert words in seen["text"], words


def test_dark_is_dark_and_light_is_light(browser: Browser, page: Path) -> None:
    colours = []
    for is_dark in (False, True):
        browser.open(page, is_dark=is_dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(251, 251, 250)", "rgb(20, 24, 28)"]


PLACES = """[...document.querySelectorAll("svg.scene circle")].map(
    (e) => [e.dataset.p, +e.getAttribute("cx"), +e.getAttribute("cy")]).sort()"""
MIDDLE = """(() => { const svg = document.querySelector("svg.scene");
    svg.scrollIntoView(); const b = svg.getBoundingClientRect();
    return [b.left + b.width / 2, b.top + b.height / 2]; })()"""
DOUBLE_CLICK = """document.querySelector("svg.scene").dispatchEvent(new Event("dblclick"))"""


def test_the_cluster_turns_and_turns_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.evaluate(PLACES)
    browser.drag(*browser.evaluate(MIDDLE), right=80, down=0)
    after = browser.evaluate(PLACES)
    assert len(before) == len(after)
    assert [row[0] for row in before] == [row[0] for row in after]
    moved = sum(abs(a[1] - b[1]) > 1 for a, b in zip(before, after, strict=True))
    assert moved > len(before) / 2  # to the right in front, to the left behind
    same = sum(abs(a[2] - b[2]) < 0.2 for a, b in zip(before, after, strict=True))
    assert same == len(before)
    browser.evaluate(DOUBLE_CLICK)
    browser.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert browser.evaluate(PLACES) == before
    assert browser.complaints == []


BAD = """<script>window.hasRun = true; console.error("oh"); nothing.at.all;</script>
<img src="http://example.org/x.png">"""


def test_the_browser_does_complain(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><title>bad</title>{BAD}")
    browser.open(tmp_path / "bad.html")
    told = " ".join(browser.complaints)
    assert "oh" in told
    assert "nothing is not defined" in told
    assert len(browser.requests) == 2


def test_a_page_lets_no_other_script_run_and_nothing_be_fetched(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    html = page.read_text().replace("</main>", f"</main>{BAD}")
    (tmp_path / "bad.html").write_text(html)
    browser.open(tmp_path / "bad.html")
    assert browser.evaluate("window.hasRun") is None
    assert "Content Security Policy" in " ".join(browser.complaints)
    assert browser.evaluate("document.querySelector('img').naturalWidth") == 0
