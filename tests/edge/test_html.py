"""The HTML report: whole, small, escaped, and complete with whatever is there."""

from __future__ import annotations

import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report import answer, figures, svg
from qcmb_mpi.report.files import write_summary
from qcmb_mpi.report.html import render_report, report_for, write_report
from qcmb_mpi.report.sources import Material
from qcmb_mpi.report.status import status_of
from qcmb_mpi.report.summary import AgentInfo, RunSummary
from qcmb_mpi.report.timeline import gantt
from qcmb_mpi.run_files import page_of
from qcmb_mpi.store import Store
from tests.edge.report_cases import done, make_result, make_rows
from tests.toys import toy_expansion

STARTED_AT_S = 1.8e9  # when the first of make_rows() begins
VOID = {"meta", "br", "link", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks that elements are closed, and collects text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def make_summary(**notes: Any) -> dict[str, Any]:
    space = TaskSpace(toy_expansion(4))
    run = RunSummary(space, "mpi", start_s=0.0, n_ranks=2, started_at_s=STARTED_AT_S)
    run.agent_joined(AgentInfo(0, "node0", 4, 2, 2, 3 * 2**30))
    run.agent_joined(AgentInfo(1, "node1", 4, 2, 2, 900))
    run.agent_lost(AgentInfo(1, "node1", 4, 2, 2, 900), "its process has died")
    run.observe([done(task, 1.0 + task, peak_bytes=5 * 2**20) for task in range(13)], 0, now=60.0)
    message, tail = "SCF <b>did</b> not converge", "cycle 50\n<script>alert(1)</script>"
    run.failed(
        '["mp2", [1], [1]]', "convergence_error", message, attempts=2, program="pyscf",
        output_tail=tail,
    )  # fmt: skip
    run.note(layout="many small tasks, so <i>one</i> thread each", **notes)
    return run.finish("failed", 70.0)


def test_a_report_with_everything() -> None:
    rows, labels = make_rows(16)
    html = render_report(make_result(), make_summary(), Material(rows, labels), title="water4")
    page = Page(html)
    words = page.words()
    for text in (
        "water4", "12 atoms · 4 fragments · mp2/cc-pvdz, pyscf", "The answer",
        "Not counterpoise corrected (nocp) · what this result returns",
        "Counterpoise corrected (cp) n-body", "-0.033000000000", "-20.707813",
        "Who did what when", "Slots at work", "Slowest tasks", "13 computed", "many small tasks",
        "SCF <b>did</b> not converge", "2 attempts", "3 GiB", "(lost: its process has died)",
        "Made with", "let the program try more with --remedies",
    ):  # fmt: skip
        assert text in words, text
    assert words.index("Failed tasks") < words.index("The answer")


def test_tasks_levels_and_colours_are_told_in_words() -> None:
    rows, labels = make_rows(4)
    labels[0] = '["(auto)", [2, 4], [1, 2, 3, 4]]'
    run = make_summary()
    run["levels"] = [run["levels"][0] | {"model_chemistry": "(auto)"}]
    run["prediction"] = {
        "median_relative_error": None,
        "classes": [
            {"model_chemistry": "(auto)", "nbody": n, "n_basis": 4, "n_tasks": 2,
             "predicted_s": 1.0, "measured_s": 2.0}
            for n in ("supersystem", 4)
        ],
    }  # fmt: skip
    result = make_result()
    result["input_data"]["molecule"]["molecular_charge"] = 1.0
    words = Page(html := render_report(result, run, Material(rows, labels))).words()
    assert "mp2/cc-pvdz, pyscf: 2 + 4, basis of 1-4" in words
    assert "mp2: 1 pyscf · convergence_error" in words
    assert 'title="[&#34;(auto)&#34;, [2, 4], [1, 2, 3, 4]]"' in html
    assert '<td class="l" title="(auto)">mp2/cc-pvdz, pyscf</td>' in html
    assert "prediction was right. 4-body supersystem" in words
    assert "4 fragments · charge +1 · mp2" in words


def test_a_run_that_was_interrupted_says_how_to_go_on() -> None:
    run = RunSummary(TaskSpace(toy_expansion(4)), "mpi", start_s=0.0, n_ranks=1)
    run.observe([done(task) for task in range(4)], 0, now=60.0)
    run.note(stopped="SIGTERM: the queue ends the job")
    summary = run.finish("incomplete", 70.0)
    n_tasks = summary["n_tasks"]
    words = Page(render_report(None, summary)).words()
    assert f"4 of {n_tasks}" in words
    assert f"{n_tasks - 4} of {n_tasks} tasks are left." in words
    assert "the same command goes on" in words
    assert "Why it ended: SIGTERM: the queue ends the job." in words


def test_what_comes_from_files_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    result = make_result(stdout=evil)
    result["input_data"]["molecule"]["name"] = evil
    result["input_data"]["specification"]["keywords"]["bsse_type"] = ["cp", "nocp"]
    rows, labels = make_rows(4)
    html = render_report(
        result, make_summary(started=evil), Material(rows, [evil] * len(labels)), title=evil
    )
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert evil in page.words()


def test_the_page_needs_nothing_else() -> None:
    rows, labels = make_rows(8)
    page = Page(render_report(make_result(), make_summary(), Material(rows, labels)))
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "onclick", "onload"}
    html = render_report(make_result(), make_summary(), Material(rows, labels))
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_is_well_formed() -> None:
    rows, labels = make_rows(16)
    html = render_report(make_result(), make_summary(), Material(rows, labels))
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        assert ElementTree.fromstring(picture).find(".//{*}text") is not None
        assert "nan" not in picture
        assert "inf" not in picture


def test_pictures_are_of_the_last_run_alone() -> None:
    rows, labels = make_rows(4)
    moment_s = float(np.median(rows.start_s)) + 1e-6
    moment = datetime.fromtimestamp(moment_s, timezone.utc)
    last = Material(rows, labels).since(moment)
    assert last.rows.task.tolist() == np.flatnonzero(rows.start_s > moment_s).tolist()
    assert last.labels == [labels[task] for task in last.rows.task.tolist()]
    summary = make_summary() | {"started": moment.isoformat()}
    drawn = render_report(None, summary, Material(rows, labels))
    assert drawn == render_report(None, summary, last)
    assert drawn != render_report(None, make_summary(), Material(rows, labels))


@pytest.mark.parametrize("n_computed", [0, 13])
def test_a_run_that_computed_nothing_shows_the_one_before(n_computed: int) -> None:
    summary = make_summary() | {
        "started": "2100-01-01T00:00:00.000+00:00",
        "n_computed": n_computed,
    }
    words = Page(render_report(None, summary, Material(*make_rows(4)))).words()
    assert "Who did what when" in words
    assert "started 2100-01-01 00:00:00 UTC" in words
    assert ("This run computed nothing" in words) == (n_computed == 0)


def test_large_runs_make_small_pages() -> None:
    rows, labels = make_rows(40, 16)
    assert len(rows) == 10_700
    assert len(render_report(None, None, Material(rows, labels))) < 1_500_000


@pytest.mark.parametrize("has_result", [False, True])
@pytest.mark.parametrize("has_summary", [False, True])
@pytest.mark.parametrize("has_rows", [False, True])
def test_parts_that_are_missing_are_left_out(
    has_result: bool, has_summary: bool, has_rows: bool
) -> None:
    material = Material(*make_rows(4)) if has_rows else None
    page = Page(
        render_report(
            make_result() if has_result else None, make_summary() if has_summary else None, material
        )
    )
    words = page.words()
    assert ("The answer" in words) == has_result
    assert ("Levels" in words) == has_summary
    assert ("Who did what when" in words) == has_rows
    assert ("The run" in words) == (has_summary or has_rows)
    assert ("Slowest tasks" in words) == (has_summary or has_rows)


def test_an_old_or_poor_summary_is_no_error() -> None:
    words = Page(render_report({}, {"status": "complete", "n_tasks": 3})).words()
    assert "3: 0 computed" in words


def failures(n: int, message: str) -> list[dict[str, Any]]:
    return [
        {"label": f"[{i}]", "error_type": "random_error", "message": message.format(i=i)}
        for i in range(n)
    ]


def test_failures_of_a_kind_are_shown_once_with_the_labels_of_all() -> None:
    summary = make_summary()
    summary["failed"] += failures(70, "lost node{i} at 12:00:{i}")
    html = render_report(None, summary)
    words = Page(html).words()
    assert "71 of 14 tasks failed for good, of 2 kinds." in words
    assert html.count('class="failure"') == 2
    assert "70 tasks random_error · 70 attempts" in words
    assert "[0], for example: lost node0 at 12:00:0" in words
    assert "lost node1 " not in words
    assert f"all 70 tasks {' · '.join(f'[{i}]' for i in range(70))}" in words


def test_many_kinds_of_failures_and_many_labels_are_cut() -> None:
    summary = make_summary()
    kinds = [failures(1, f"ran into {'x' * n}")[0] for n in range(69)]
    summary["failed"] += kinds + failures(1234, "ran into {i}")
    page = Page(render_report(None, summary)).words()
    assert "and 21 more kinds, in the run summary" in page
    summary["failed"] = failures(1234, "ran into {i}")
    page = Page(render_report(None, summary)).words()
    assert "[999] and 234 more, in the run summary" in page


def test_levels_show_what_ran_at_each_order() -> None:
    result = make_result()
    specification = result["input_data"]["specification"]
    specification["keywords"]["levels"] = {"2": "hi", "3": "lo", "supersystem": "ss"}
    specification["specification"] = {
        "hi": {"program": "pyscf", "model": {"method": "mp2", "basis": "cc-pvdz"}},
        "lo": {"program": "pyscf", "model": {"method": "hf", "basis": "sto-3g"}},
        "ss": {"program": "tblite", "model": {"method": "gfn2-xtb", "basis": None}},
    }
    result["properties"]["nocp_corrected_total_energy_through_4_body"] = -4.1
    table = answer.treatments(result)[0]
    assert [row.model_chemistry for row in table.rows] == [
        "mp2/cc-pvdz, pyscf", "mp2/cc-pvdz, pyscf", "hf/sto-3g, pyscf", "gfn2-xtb, tblite",
    ]  # fmt: skip
    assert table.rows[3].interaction_kcal is None
    assert "model chemistry" in Page(render_report(result, None)).words()


def test_without_total_energies_there_is_no_column_for_them() -> None:
    result = make_result()
    assert "total energy<small>" in render_report(result, None)
    for name in [name for name in result["properties"] if "total_energy" in name]:
        del result["properties"][name]
    html = render_report(result, None)
    assert "total energy<small>" not in html
    assert "-20.707813" in Page(html).words()


def test_gradients_are_summed_up() -> None:
    result = make_result(return_result=[[3e-3, 0.0, -4e-3], [0, 0, 0.0]])
    result["input_data"]["specification"]["driver"] = "gradient"
    last = answer.headlines(result)[-1]
    assert (last.quantity, last.value) == ("gradient, largest component", "4.000e-03 au")
    assert last.note == "6 numbers, rms 2.041e-03"


def test_total_energies_alone_are_an_answer() -> None:
    properties = {"cp_corrected_total_energy_through_1_body": -4.0}
    headlines = answer.headlines({"properties": properties, "return_result": None})
    assert [line.value for line in headlines] == ["-4.00000000 Eh"]
    assert answer.headlines({}) == []
    assert answer.kcal(1.0) == pytest.approx(627.5094737775374)


@pytest.mark.parametrize("scale", [1e-9, 3.7e-3, 1.0, 59.0, 61.0, 4e3, 8e4, 3e6])
def test_axes_have_a_few_round_ticks(scale: float) -> None:
    for found in (svg.time_ticks(scale), svg.ticks(-scale, scale)):
        assert 2 <= len(found) <= 14
        assert np.allclose(np.diff(found), found[1] - found[0])
        assert max(found) <= scale * 1.001


def test_pictures_of_nothing_are_empty() -> None:
    rows, _ = make_rows(3)
    assert figures.area_svg(np.zeros(0), 1.0, 1.0, "x") == ""
    assert figures.gantt_svg(gantt(rows.take(np.zeros(len(rows), np.bool_))), {}) == ""
    assert figures.convergence_svg({"cp": [(1, 0.0)]}, "kcal/mol") == ""
    assert "<path" in figures.convergence_svg({"cp": [(1, 0.0), (2, 0.0)]}, "kcal/mol")


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    series = {name: [(1, 0.0), (2, -5.0)] for name in ("cp", "nocp", "vmfc")}
    picture = figures.convergence_svg(series, "kcal/mol")
    found = re.findall(r'y="([\d.]+)" text-anchor="start"', picture)
    heights = sorted(map(float, found))
    assert len(heights) == 3
    assert min(np.diff(heights)) >= 14.9


def test_many_slots_are_named_by_rank_and_host() -> None:
    rows, labels = make_rows(12, 128, slots_per_rank=8)
    html = render_report(None, None, Material(rows, labels))
    assert "rank 3 node3" in html
    assert "32 more slots are not drawn" in html


HELIUM = {
    "schema_name": "qcschema_many_body_input",
    "schema_version": 2,
    "molecule": {
        "symbols": ["He"] * 3,
        "geometry": [0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 4.0, 0.0],
        "fragments": [[0], [1], [2]],
        "fragment_charges": [0.0] * 3,
        "fragment_multiplicities": [1] * 3,
    },
    "specification": {
        "driver": "energy",
        "keywords": {"bsse_type": ["nocp"], "max_nbody": 2},
        "specification": {
            "(auto)": {
                "program": "pyscf", "driver": "energy", "model": {"method": "hf", "basis": "sto-3g"}
            }
        },
    },
}  # fmt: skip


@pytest.fixture
def run_files(tmp_path: Path) -> Path:
    """A finished run of six tasks: store, summary and result."""
    space = TaskSpace(schema.load_input(HELIUM).expansion)
    with Store.open(tmp_path / "he.store.sqlite") as store:
        store.attach(0, space)
        store.append([done(task, start_s=1000.0 + task) for task in range(space.n_tasks)])
    write_summary(make_summary(), tmp_path / "he.run.json")
    result = make_result(input_data=HELIUM)
    (tmp_path / "he.result.json").write_text(json.dumps(result))
    return tmp_path


@pytest.mark.parametrize("name", ["he.result.json", "he.store.sqlite", "he.run.json"])
def test_a_report_is_made_from_any_file_of_a_run(run_files: Path, name: str) -> None:
    html = report_for(run_files / name)
    words = Page(html).words()
    for text in ("The answer", "Who did what when", "hf/sto-3g, pyscf: 1 + 2", "13 computed"):
        assert text in words, text
    assert "<title>he - qcmb_mpi</title>" in html
    write_report(run_files / "he.html", html)
    assert (run_files / "he.html").read_text().rstrip() == html.rstrip()


@pytest.mark.parametrize(
    "name", ["x.result.json", "x.json", "x.store.sqlite", "x.run.json", "x.result.store.sqlite"]
)
def test_a_page_has_one_name_whatever_file_it_is_made_from(name: str) -> None:
    assert page_of(Path("a", name)) == Path("a/x.report.html")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_tasks": "many"}, r"summary\.n_tasks: must be a number"),
        ({"status": "done"}, r"summary\.status: is not known"),
        ({"failed": 3}, r"summary\.failed: must be a list"),
        ({"levels": [{"nbody": 1}]}, r"summary\.levels\[0\]\.model_chemistry: is missing"),
        ({"prediction": {"classes": [7]}}, r"summary\.prediction\.classes\[0\]: must be an object"),
    ],
)
def test_a_summary_of_another_make_is_refused(
    run_files: Path, changes: dict[str, Any], field: str
) -> None:
    write_summary(make_summary() | changes, run_files / "he.run.json")
    for read in (report_for, status_of):
        with pytest.raises(
            InputError, match=rf"he\.run\.json: is no run summary: {field}"
        ) as error:
            read(run_files / "he.run.json")
        assert error.value.exit_code == 2
        assert len(str(error.value).splitlines()) == 1


def test_a_store_alone_gives_a_report(run_files: Path) -> None:
    for name in ("he.result.json", "he.run.json"):
        (run_files / name).unlink()
    words = Page(report_for(run_files / "he.store.sqlite")).words()
    assert "Who did what when" not in words
    assert "give the RESULT" in words
    with Store.open(run_files / "he.store.sqlite") as store:
        store.set_meta({"input": HELIUM})
    assert "Who did what when" in Page(report_for(run_files / "he.store.sqlite")).words()


def test_a_store_without_results_says_so(tmp_path: Path) -> None:
    with Store.open(tmp_path / "he.store.sqlite") as store:
        store.set_meta({"input": HELIUM})
    assert "no results yet" in Page(report_for(tmp_path / "he.store.sqlite")).words()


def test_an_unreadable_input_costs_only_the_timeline(
    run_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = make_result(input_data={"molecule": {}, "specification": {}})
    (run_files / "he.result.json").write_text(json.dumps(result))
    with caplog.at_level(logging.WARNING):
        words = Page(report_for(run_files / "he.result.json")).words()
    assert "The answer" in words
    assert "Who did what when" not in words
    assert "no timeline in the report" in caplog.text


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        report_for(tmp_path / "nothing.json")
