"""All tasks of a run as CSV, Parquet and a frame: every task once, in the same words everywhere."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import qcmb_mpi
from qcmb_mpi import schema
from qcmb_mpi.cli import main
from qcmb_mpi.errors import InputError, StoreError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report import sources, tables
from qcmb_mpi.report.tables import (
    COLUMNS,
    contributions_frame,
    tasks_frame,
    write_csv,
    write_parquet,
)
from qcmb_mpi.store import Store, values
from tests.edge.report_cases import done, helium, lost, make_run
from tests.edge.store_cases import execute

N_FRAGMENTS = 4
FAILED, MISSING = 9, 12  # a pair and a trimer of the 14 tasks


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A run of helium atoms of which one task failed and one was never tried."""
    path = tmp_path / "he.store.sqlite"
    space = TaskSpace(schema.load_input(helium(N_FRAGMENTS)).expansion)
    assert space.n_tasks == 14
    with Store.open(path) as store:
        store.attach(0, space)
        store.set_meta({"input": helium(N_FRAGMENTS)})
        kept = [task for task in range(space.n_tasks) if task not in (FAILED, MISSING)]
        store.append([lost(1), lost(FAILED)])
        store.append(
            [done(t, 0.5 + t, energy_hartree=-1.0 / 3 - t, start_s=1000.0 + t) for t in kept]
        )
        store.append([lost(FAILED)])
    return path


def expected_real(task: int) -> str:
    singles = ["1", "2", "3", "4"]
    pairs = ["1 2", "1 3", "1 4", "2 3", "2 4", "3 4"]
    return [*singles, *pairs, "1 2 3", "1 2 4", "1 3 4", "2 3 4"][task]


def test_csv_has_every_task_that_ended_once(store: Path, tmp_path: Path) -> None:
    assert write_csv(store, tmp_path / "t.csv") == 13
    with (tmp_path / "t.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(COLUMNS)
    assert [int(row["task"]) for row in rows] == [t for t in range(14) if t != MISSING]
    for row in rows:
        task = int(row["task"])
        assert row["real"] == row["basis"] == expected_real(task)
        assert int(row["n_real"]) == len(row["real"].split())
        if task == FAILED:
            assert (row["status"], row["attempts"], row["energy_hartree"]) == ("failed", "2", "")
            assert (row["error_type"], row["peak_bytes"]) == ("convergence_error", "")
            assert row["message"] == "SCF did not converge"
        else:
            assert row["status"] == "done"
            assert float(row["energy_hartree"]) == -1.0 / 3 - task  # every bit
            assert float(row["seconds"]) == 0.5 + task
            assert row["message"] == ""
    assert {row["attempts"] for row in rows if row["task"] == "1"} == {"2"}


def test_parquet_frame_and_csv_say_the_same(store: Path, tmp_path: Path) -> None:
    frame = tasks_frame(store)
    assert write_parquet(store, tmp_path / "t.parquet") == write_csv(store, tmp_path / "t.csv")
    kinds = {"real": str, "basis": str, "version": str}
    for other in (
        pd.read_parquet(tmp_path / "t.parquet"),
        pd.read_csv(tmp_path / "t.csv", dtype=kinds),
    ):
        assert list(other) == list(frame) == list(COLUMNS)
        for name in COLUMNS:
            ours, theirs = frame[name].astype(object), other[name].astype(object)
            assert (ours.isna() == theirs.isna()).all(), name
            assert ours.dropna().tolist() == theirs.dropna().tolist(), name
    assert frame.dtypes["energy_hartree"] == np.float64
    assert frame.dtypes["real"] == "category"
    assert qcmb_mpi.tasks_frame is tasks_frame


def test_tables_come_in_pages_of_bounded_size(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(store, tmp_path / "whole.csv")
    write_parquet(store, tmp_path / "whole.parquet")
    monkeypatch.setattr(values, "_PAGE_ROWS", 2)
    monkeypatch.setattr(tables, "_ROW_GROUP", 3)
    with sources.open_run(store) as (opened, space):
        sizes = [len(page["task"]) for page in tables.pages(opened, space)]
    assert sizes == [2, 2, 2, 2, 2, 2, 1]
    write_csv(store, tmp_path / "paged.csv")
    assert (tmp_path / "paged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    write_parquet(store, tmp_path / "paged.parquet")
    paged, whole = (pd.read_parquet(tmp_path / f"{n}.parquet") for n in ("paged", "whole"))
    pd.testing.assert_frame_equal(paged, whole)


def test_ghosts_are_in_the_basis(tmp_path: Path) -> None:
    document = helium(3, bsse=["cp", "vmfc"], max_nbody=2)
    space = TaskSpace(schema.load_input(document).expansion)
    path = tmp_path / "g.store.sqlite"
    with Store.open(path) as store:
        store.attach(0, space)
        store.set_meta({"input": document})
        store.append([done(task) for task in range(space.n_tasks)])
    frame = tasks_frame(path)
    labels = [
        json.dumps([mc, [int(f) for f in real.split()], [int(f) for f in basis.split()]])
        for mc, real, basis in zip(frame.model_chemistry, frame.real, frame.basis, strict=True)
    ]
    assert labels == space.labels(range(space.n_tasks))


def test_contributions_are_those_that_the_result_adds_up(tmp_path: Path) -> None:
    result = make_run(tmp_path, 6)
    properties = json.loads(result.read_text())["properties"]
    for nbody, n_rows in ((2, 15), (3, 20)):
        frame = contributions_frame(result, nbody)
        assert list(frame) == ["fragments", "distance_angstrom", "nocp_hartree"]
        assert len(frame) == n_rows
        total = properties[f"nocp_corrected_{nbody}_body_contribution_to_energy"]
        assert frame.nocp_hartree.sum() == pytest.approx(total, abs=1e-11)
    assert frame.fragments[0] == "1 2 3"
    assert (frame.distance_angstrom > 1).all()
    with pytest.raises(InputError, match=r"nbody: has no contributions.*got 4.*accepted: 2, 3"):
        contributions_frame(result, 4)
    assert qcmb_mpi.contributions_frame is contributions_frame


def test_a_damaged_energy_is_not_exported(store: Path, tmp_path: Path) -> None:
    execute(store, "UPDATE component SET energy = energy + 1 WHERE rank = 2")
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(StoreError, match="checksum"):
        write_csv(store, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "old"
    assert [each.name for each in tmp_path.glob(".*part")] == []


def test_a_frame_of_too_many_tasks_is_refused(store: Path) -> None:
    with pytest.raises(InputError, match=r"has 14 tasks, too many.*--parquet"):
        tasks_frame(store, max_tasks=13)
    assert len(tasks_frame(store, max_tasks=None)) == 13


def test_without_pandas_and_pyarrow_people_are_told_what_to_install(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *arguments: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(tables, "import_module", absent)
    with pytest.raises(InputError, match=r"needs pandas.*pip install 'qcmb_mpi\[pandas\]'"):
        tasks_frame(store)
    with pytest.raises(InputError, match="--parquet: needs pyarrow"):
        write_parquet(store, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_the_command_writes_what_is_asked_for(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {name: tmp_path / f"out.{name}" for name in ("csv", "parquet", "trace")}
    words = [word for name, path in outputs.items() for word in (f"--{name}", str(path))]
    assert main(["report", str(store), *words]) == 0
    said = capsys.readouterr().err
    assert all(str(path) in said and path.exists() for path in outputs.values())
    assert "out.csv, 13 tasks" in said
    assert not (tmp_path / "he.report.html").exists()
    slices = json.loads(outputs["trace"].read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in slices) == 12
    page = str(tmp_path / "page.html")
    assert main(["report", str(store), "--csv", str(outputs["csv"]), "-o", page]) == 0
    assert Path(page).exists()


@pytest.mark.parametrize("name", ["he.store.sqlite", "nowhere/t.csv"])
def test_the_command_overwrites_no_file_of_the_run(
    store: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.read_bytes()
    assert main(["report", str(store), "--csv", str(store.parent / name)]) == 2
    assert "--csv" in capsys.readouterr().err
    assert store.read_bytes() == before


def test_a_run_without_store_or_input_is_refused_in_words(store: Path, tmp_path: Path) -> None:
    execute(store, "DELETE FROM meta WHERE key = 'input'")
    with pytest.raises(InputError, match="does not say of which input"):
        tasks_frame(store)
    (tmp_path / "he.result.json").write_text(json.dumps({"input_data": helium(N_FRAGMENTS)}))
    assert len(tasks_frame(tmp_path / "he.result.json")) == 13
    store.unlink()
    with pytest.raises(InputError, match="has no store beside it"):
        tasks_frame(tmp_path / "he.result.json")


def test_a_store_elsewhere_is_found_by_what_the_summary_says(store: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    moved = store.rename(tmp_path / "far" / "any.sqlite")
    (tmp_path / "he.result.json").write_text(json.dumps({"input_data": helium(N_FRAGMENTS)}))
    for named in (str(moved), "far/any.sqlite"):
        (tmp_path / "he.run.json").write_text(json.dumps({"files": {"store": named}}))
        assert len(tasks_frame(tmp_path / "he.result.json")) == 13
    for odd in ({"files": {"store": "gone.sqlite"}}, {"files": None}, {"files": {"store": 3}}, []):
        (tmp_path / "he.run.json").write_text(json.dumps(odd))
        with pytest.raises(InputError, match="has no store beside it"):
            tasks_frame(tmp_path / "he.result.json")


def test_of_very_many_tasks_the_timeline_takes_one_in_so_many(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        sources.open_run(store) as (opened, space),
        caplog.at_level(logging.WARNING),
    ):
        whole, _ = sources.rows_of(opened, space)
        rows, labels = sources.rows_of(opened, space, max_rows=7)
    assert (whole.stride, len(whole)) == (1, 12)
    assert rows.stride == 2
    assert rows.task.tolist() == [0, 2, 4, 6, 8, 10]  # ranks 0, 2, ... of each block
    assert labels == space.labels(rows.task)
    assert "of 14 tasks only one in 2" in caplog.text
