"""The store as its users see it: nothing lost, nothing wrongly shared, one writer."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.store import Store, core, salvage
from qcmb_mpi.store.write import Transaction
from tests.edge.store_cases import (
    ManualClock,
    clusters_of,
    committed,
    fill,
    make_failure,
    make_outcome,
    make_space,
)

# Whatever the order in which blocks and origins were numbered.
EVERYTHING = (
    "SELECT fingerprint, n_real, n_basis, c.rank, status, kinds, energy, c.checksum, start_s, "
    "seconds, cpu_s, peak_bytes, error_class, message, remedy, attempts, host, mpi_rank, slot, "
    "n_threads, o.program, version FROM component c JOIN block b ON b.id = block "
    "JOIN specification s ON s.id = specification JOIN origin o ON o.id = origin "
    "ORDER BY 1, 2, 3, 4",
    "SELECT fingerprint, n_real, n_basis, p.rank, kind, p.checksum, data FROM payload p "
    "JOIN block b ON b.id = block JOIN specification s ON s.id = specification "
    "ORDER BY 1, 2, 3, 4, 5",
    "SELECT n_real, n_basis, n_done, checksums FROM block ORDER BY 1, 2",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


# ------------------------------------------------------------------------------- done and failed


@pytest.mark.parametrize("name", ["run.store.sqlite", "with #?% and ü.sqlite"])
def test_a_reopened_store_knows_what_is_done(tmp_path: Path, name: str) -> None:
    space, path = make_space(3, ("vmfc",)), tmp_path / name
    tasks = [space.n_tasks - 1, 0, 7, 3]
    fill(path, space, tasks)
    with Store.open(path) as store:
        store.attach(0, space)
        done = store.done(0)
        assert done.dtype == np.int64
        assert done.tolist() == sorted(tasks)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_temporary_store_is_the_same_code_without_a_file(tmp_path: Path) -> None:
    space = make_space()
    with Store.open(None) as store:
        store.attach(0, space)
        store.append([make_outcome(space, task) for task in range(space.n_tasks)])
        assert store.path is None
        assert store.done(0).tolist() == list(range(space.n_tasks))
        assert store.values(0).properties == {"energy"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
@pytest.mark.parametrize("bsse", ["nocp", "vmfc"])
def test_batches_are_stored_as_their_tasks_would_be_one_by_one(
    tmp_path: Path, driver: str, bsse: str
) -> None:
    space = make_space(3, (bsse,), driver=driver, sizes=(1, 2, 1, 3))
    many = [make_outcome(space, task) for task in range(space.n_tasks)]
    many += [make_outcome(space, 1, record=b"{}"), make_failure(space, 2), make_outcome(space, 3)]
    found = []
    for name, outcomes in (("one", Outcomes(others=many)), ("many", Outcomes.of(many))):
        with Store.open(tmp_path / name) as store:
            store.attach(0, space)
            store.append(outcomes)
        with sqlite3.connect(tmp_path / name) as db:
            found.append([db.execute(sql).fetchall() for sql in EVERYTHING])
    assert len(found[0][0]) == space.n_tasks
    assert (
        len(found[0][1])
        == {"energy": 1, "gradient": 1, "hessian": 2}[driver]
        * (0 if driver == "energy" else space.n_tasks)
        + 1
    )
    assert found[0] == found[1]


@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_a_batch_of_which_some_are_there_is_stored_as_one_by_one(
    tmp_path: Path, driver: str
) -> None:
    space = make_space(3, driver=driver, sizes=(1,) * 8)
    tasks = list(range(space.n_tasks))[::-1]
    assert len(tasks) > 64
    before = [
        make_outcome(space, 3),
        make_failure(space, 17),
        make_outcome(space, 60, record=b"{}"),
    ]
    many = [make_outcome(space, task) for task in tasks]
    found = []
    for name, outcomes in (("one", Outcomes(others=many)), ("many", Outcomes.of(many))):
        with Store.open(tmp_path / name) as store:
            store.attach(0, space)
            store.append(before)
            store.flush()
            store.append(outcomes)
        with Store.open(tmp_path / name, is_read_only=True) as store:
            store.attach(0, space)
            assert store.done(0).tolist() == tasks[::-1]  # refused if the tally were wrong
        with sqlite3.connect(tmp_path / name) as db:
            found.append([db.execute(sql).fetchall() for sql in EVERYTHING])
            found[-1].append(db.execute("SELECT n_done, checksums FROM block").fetchall())
    assert found[0] == found[1]


def test_of_a_batch_with_a_wrong_task_the_others_are_stored(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    wrong = dataclasses.replace(make_outcome(space, 0), task=space.n_tasks)
    strange = dataclasses.replace(make_outcome(space, 0), space=5)
    for unfit, words in ((wrong, "has no task"), (strange, "not attached")):
        with pytest.raises(StoreError, match=words):
            store.append([make_outcome(space, 1), unfit, make_outcome(space, 2)])
    assert store.done(0).tolist() == [1, 2]


def test_a_failure_never_replaces_a_result_and_a_result_replaces_a_failure(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    store.append([make_outcome(space, 1), make_failure(space, 1), make_failure(space, 2, "first")])
    store.flush()
    store.append([make_failure(space, 1), make_failure(space, 2, "second"), make_failure(space, 3)])
    ((task, failure, attempts), (other, _, once)) = store.failures(0)
    assert (task, failure.message, attempts, other, once) == (2, "second", 2, 3, 1)
    assert failure.error_class is ErrorClass.CONVERGENCE
    assert (failure.error_type, failure.output_tail) == ("convergence_error", "last line")
    assert store.done(0).tolist() == [1]
    store.append([make_outcome(space, 2)])
    assert store.done(0).tolist() == [1, 2]
    assert [row[0] for row in store.failures(0)] == [3]
    rows = store.rows(0)
    assert rows.attempts.tolist() == [1, 3, 1]
    assert rows.is_done.tolist() == [True, True, False]


def test_the_first_of_two_results_stays(store: Store) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    first = make_outcome(space, 4)
    store.append([first])
    store.flush()
    assert first.gradient is not None
    store.append([make_outcome(space, 4, energy_hartree=1.0, gradient=first.gradient + 1.0)])
    store.append([make_outcome(space, t) for t in range(space.n_tasks) if t != 4])
    block = next(b for b in space.blocks if 4 in b.ids)
    values = store.values(0)
    assert values.energies(block)[4 - block.start] == first.energy_hartree
    stored = [a for _, arrays in values.arrays(block, "gradient") for a in arrays]
    assert np.array_equal(stored[4 - block.start], first.gradient)
    assert store.rows(0).attempts.tolist() == [1] * space.n_tasks


def test_a_result_with_a_record_replaces_one_without(store: Store) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    store.append([make_outcome(space, 0), make_outcome(space, 1, record=b'{"a": 1}')])
    assert store.done(0).tolist() == [0, 1]
    assert store.done(0, with_records=True).tolist() == [1]
    richer = make_outcome(space, 0, record=b"{}", gradient=np.full((1, 3), 2.5))
    store.append([richer])
    assert store.done(0, with_records=True).tolist() == [0, 1]
    store.append([make_outcome(space, 0)])
    assert list(store.records(0)) == [(0, b"{}"), (1, b'{"a": 1}')]
    monomers = space.blocks[0]
    store.append([make_outcome(space, task) for task in monomers.ids])
    assert next(store.values(0).arrays(monomers, "gradient"))[1][0].tolist() == [[2.5] * 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"energy_hartree": float("nan")}, "has the energy nan"),
        ({"energy_hartree": -float("inf")}, "has the energy -inf"),
        ({"gradient": None}, "has no gradient"),
        ({"gradient": np.full((1, 3), np.nan)}, "gradient that is not finite"),
        ({"gradient": np.zeros(3)}, r"gradient of the shape \(3,\)"),
        ({"gradient": np.float64(1.0)}, r"gradient of the shape \(\)"),
        ({"gradient": np.zeros((0, 3))}, r"gradient of the shape \(0, 3\)"),
        ({"hessian": np.zeros((3, 6))}, r"hessian of the shape \(3, 6\)"),
        ({"hessian": np.zeros((4, 4))}, r"hessian of the shape \(4, 4\)"),
        ({"space": 9}, "space 9 is not attached"),
        ({"task": 99}, "has no task 99"),
    ],
)
def test_what_is_unfit_is_refused_and_the_rest_of_the_batch_is_kept(
    store: Store, changes: dict[str, object], expected: str
) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    bad = dataclasses.replace(make_outcome(space, 0), **changes)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=expected):
        store.append([make_outcome(space, 1), bad, make_outcome(space, 2)])
    assert store.done(0).tolist() == [1, 2]


def test_an_energy_task_must_have_an_energy(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    with pytest.raises(StoreError, match="has no energy"):
        store.append([make_outcome(space, 0, energy_hartree=None)])


# ------------------------------------------------------------------------------- what is shared


@pytest.mark.parametrize(
    ("max_nbody", "bsse"), [(3, ("nocp",)), (2, ("cp",)), (3, ("nocp", "cp", "vmfc")), (1, ("cp",))]
)
def test_another_expansion_of_the_same_chemistry_reuses_exactly_the_overlap(
    path: Path, max_nbody: int, bsse: tuple[str, ...]
) -> None:
    first, second = make_space(2, ("nocp",)), make_space(max_nbody, bsse, label="other name")
    computed = range(0, first.n_tasks, 2)
    fill(path, first, computed)
    with Store.open(path) as store:
        store.attach(5, second)
        reused = store.done(5).tolist()
    shared = clusters_of(first, computed) & clusters_of(second, range(second.n_tasks))
    assert clusters_of(second, reused) == shared
    assert len(reused) == len(shared)


@pytest.mark.parametrize("changes", [{"shift_bohr": 1e-9}, {"driver": "gradient"}])
def test_another_geometry_or_driver_shares_nothing(path: Path, changes: dict[str, object]) -> None:
    fill(path, make_space())
    assert committed(path, make_space(**changes)) == []  # type: ignore[arg-type]


def test_forget_deletes_the_blocks_of_one_space_only(path: Path) -> None:
    nocp, both = make_space(2, ("nocp",)), make_space(2, ("nocp", "cp"))
    moved = make_space(shift_bohr=1.0)
    fill(path, both)
    fill(path, moved)
    with Store.open(path) as store:
        for number, space in enumerate((nocp, both, moved)):
            store.attach(number, space)
        store.append([make_outcome(nocp, 0)])
        store.forget(0)
        assert store.done(0).tolist() == []
        left = clusters_of(both, store.done(1).tolist())
        expected = clusters_of(both, range(both.n_tasks)) - clusters_of(nocp, range(nocp.n_tasks))
        assert left == expected
        assert len(store.done(2)) == moved.n_tasks


def test_forget_deletes_arrays_too(path: Path) -> None:
    space = make_space(driver="gradient")
    fill(path, space)
    with Store.open(path) as store:
        store.attach(0, space)
        store.forget(0)
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM payload").fetchone() == (0,)
    db.close()


def test_a_space_without_tasks_is_done(store: Store) -> None:
    space = make_space(1, ("cp",))
    empty = TaskSpace(dataclasses.replace(space.expansion, return_total_data=False))
    assert empty.n_tasks == 0
    store.attach(0, empty)
    assert store.done(0).tolist() == []
    assert store.values(0).properties == {"energy"}
    assert store.rows(0).tasks.tolist() == []


# ------------------------------------------------------------------------------- remedies


def test_reused_results_of_remedies_are_counted_by_remedy(path: Path) -> None:
    space, other = make_space(), make_space(shift_bohr=1.0)
    remedies = {1: "max_cycle=300", 7: "level_shift=0.3", 8: "max_cycle=300"}
    fill(path, other)
    with Store.open(path) as store:
        store.attach(0, space)
        store.append([make_failure(space, 1)])
        store.append([make_outcome(space, t, remedy=remedies.get(t, "")) for t in range(10)])
        store.append([make_outcome(space, 0, remedy="too late"), make_failure(space, 8)])
        store.append([make_outcome(space, 8, record=b"{}", remedy="max_cycle=300")])
    with Store.open(path, is_read_only=True) as reader:
        reader.attach(0, space)
        reader.attach(1, other)
        assert reader.remedied(0) == {"max_cycle=300": 2, "level_shift=0.3": 1}
        assert reader.remedied(0, with_records=True) == {"max_cycle=300": 1}
        assert reader.remedied(1) == {}
    salvage(path)
    with Store.open(path) as store:
        store.attach(0, space)
        assert store.remedied(0) == {"max_cycle=300": 2, "level_shift=0.3": 1}


# ------------------------------------------------------------------------------- commits


def test_the_first_outcome_after_a_pause_is_committed_at_once_and_the_rest_wait(
    path: Path,
) -> None:
    space, clock = make_space(), ManualClock()
    with Store.open(path, commit_interval_s=1.0, clock=clock) as store:
        store.attach(0, space)
        store.append([make_outcome(space, 0)])
        assert committed(path, space) == [0]
        clock.now_s += 0.5
        store.append([make_outcome(space, 1)])
        clock.now_s += 0.29
        store.append([make_outcome(space, 2)])
        assert committed(path, space) == [0]
        clock.now_s += 0.02
        store.commit_if_due()
        assert committed(path, space) == [0, 1, 2]
        store.append([make_outcome(space, 3)])
        assert committed(path, space) == [0, 1, 2]
        store.flush()
        assert committed(path, space) == [0, 1, 2, 3]
        store.append([make_outcome(space, 4)])
    assert committed(path, space) == [0, 1, 2, 3, 4]


def test_many_outcomes_do_not_wait_to_become_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transaction would keep the master from its slots; the disk gets its rest as well."""
    monkeypatch.setattr(core, "_MANY", 3)
    space, clock = make_space(), ManualClock()
    with Store.open(path, commit_interval_s=1.0, clock=clock) as store:
        store.attach(0, space)
        write = store._connection.write

        def write_slowly(*args: Any, **options: Any) -> bool:
            clock.now_s += 0.05
            return write(*args, **options)

        monkeypatch.setattr(store._connection, "write", write_slowly)
        store.append([make_outcome(space, 0)])
        clock.now_s += 0.04
        store.append([make_outcome(space, task) for task in (1, 2, 3)])
        assert committed(path, space) == [0]
        clock.now_s += 0.02
        store.commit_if_due()
        assert committed(path, space) == [0, 1, 2, 3]
        clock.now_s += 0.2
        store.append([make_outcome(space, task) for task in (4, 5)])
        assert committed(path, space) == [0, 1, 2, 3]


def test_what_waits_is_on_the_disk_within_the_interval_given_polls_and_a_slow_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives in the pipe the moment a commit begins waits longest."""
    space, clock = make_space(), ManualClock()
    poll_s, disk_s = 0.1, 0.09
    with Store.open(path, commit_interval_s=1.0, clock=clock) as store:
        store.attach(0, space)
        commits: list[float] = []
        write = store._connection.write

        def write_slowly(body: Callable[[Transaction], None], *, patience_s: float) -> bool:
            commits.append(clock.now_s)
            clock.now_s += disk_s
            return write(body, patience_s=patience_s)

        monkeypatch.setattr(store._connection, "write", write_slowly)
        for task in range(space.n_tasks):
            store.append([make_outcome(space, task)])
            for _ in range(4):
                clock.now_s += poll_s
                store.commit_if_due()
        begun = np.array(commits)
    assert len(begun) > 5
    assert (np.diff(begun) + disk_s < 1.0).all()
    assert (np.diff(begun) > 0.75).all()


def test_a_disk_slower_than_the_interval_leaves_time_for_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, clock = make_space(), ManualClock()
    with Store.open(path, commit_interval_s=1.0, clock=clock) as store:
        store.attach(0, space)
        write = store._connection.write

        def write_slowly(body: Callable[[Transaction], None], *, patience_s: float) -> bool:
            clock.now_s += 3.0
            return write(body, patience_s=patience_s)

        monkeypatch.setattr(store._connection, "write", write_slowly)
        store.append([make_outcome(space, 0)])
        clock.now_s += 0.9
        store.append([make_outcome(space, 1)])
        assert committed(path, space) == [0]
        clock.now_s += 0.2
        store.commit_if_due()
        assert committed(path, space) == [0, 1]


def test_nothing_is_committed_where_nothing_waits(path: Path) -> None:
    with Store.open(path) as store:
        before = path.stat().st_mtime_ns
        store.flush()
        store.commit_if_due()
        assert path.stat().st_mtime_ns == before


def test_a_writer_behind_a_slow_reader_keeps_its_rows_and_writes_later(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcmb_mpi.store.tables._WRITER_PATIENCE_S", 0.01)
    space, clock = make_space(), ManualClock()
    with Store.open(path, clock=clock) as store:
        store.attach(0, space)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        store.append([make_outcome(space, 0)])
        assert "a reader is in the way" in caplog.text
        monkeypatch.setattr("qcmb_mpi.store.core._FLUSH_PATIENCE_S", 0.05)
        with pytest.raises(StoreError, match="kept busy by another program"):
            store.flush()
        reader.execute("ROLLBACK")
        reader.close()
        clock.now_s += 2.0
        store.commit_if_due()
        assert committed(path, space) == [0]


def test_a_full_disk_is_an_error_that_loses_nothing(path: Path) -> None:
    space = make_space(3, driver="gradient", sizes=(1,) * 12)
    first = range(20)
    fill(path, space, first)
    store = Store.open(path)
    store.attach(0, space)
    db = store._connection._db
    n_pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {n_pages + 1}")
    rest = [make_outcome(space, task) for task in range(20, space.n_tasks)]
    with pytest.raises(StoreError, match="disk is full; make room"):
        store.append(rest)
    assert committed(path, space) == list(first)
    db.execute("PRAGMA max_page_count = 1000000")
    store.close()
    assert committed(path, space) == list(range(space.n_tasks))


def test_closing_after_an_error_lets_the_next_writer_in(path: Path) -> None:
    space = make_space()
    store = Store.open(path)
    store.attach(0, space)
    db = store._connection._db
    db.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreError, match="read-only"):
        store.append([make_outcome(space, 0)])
    store.close()
    store.close()
    fill(path, space, [1])
    assert committed(path, space) == [1]


def test_using_a_closed_store_is_a_bug_not_damage(path: Path) -> None:
    store = Store.open(path)
    store.attach(0, make_space())
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store.done(0)


# ------------------------------------------------------------------------------- notes


def test_meta_keeps_json_and_waits_like_outcomes(path: Path) -> None:
    clock = ManualClock()
    with Store.open(path, clock=clock) as store:
        store.set_meta({"layout": {"slots": 4}})
        store.set_meta({"n_tasks": 7, "status": "running"})
        assert (store.meta("layout"), store.meta("n_tasks")) == ({"slots": 4}, 7)
        assert store.meta("nothing") is None
        with Store.open(path, is_read_only=True) as reader:
            assert reader.meta("layout") == {"slots": 4}
            assert reader.meta("n_tasks") is None
    with Store.open(path, is_read_only=True) as reader:
        assert reader.meta("n_tasks") == 7
        with pytest.raises(StoreError, match="opened to read only"):
            reader._connection.write(lambda transaction: None, patience_s=0.0)


def test_counts_need_no_task_space(path: Path) -> None:
    space = make_space()
    fill(path, space, [0, 1, 6])
    with Store.open(path) as store:
        store.attach(0, space)
        store.append([make_failure(space, 7)])
        monomers, dimers = store.counts()
    assert (monomers.program, monomers.method, monomers.basis) == ("toy", "hf", "sto-3g")
    assert (monomers.n_real, monomers.n_done, monomers.n_failed) == (1, 2, 0)
    assert (dimers.n_real, dimers.n_basis, dimers.n_done, dimers.n_failed) == (2, 2, 1, 1)
    assert monomers.seconds == 0.25 + 1.25


def test_outcomes_of_numpy_types_are_stored(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    outcome = make_outcome(space, 0)
    assert outcome.energy_hartree is not None
    store.append(
        [
            dataclasses.replace(
                outcome,
                task=np.int64(0),  # type: ignore[arg-type]
                energy_hartree=np.float64(outcome.energy_hartree),
                peak_bytes=np.int64(5),  # type: ignore[arg-type]
                seconds=np.float32(0.5),  # type: ignore[arg-type]
                slot=np.int64(3),  # type: ignore[arg-type]
            )
        ]
    )
    rows = store.rows(0)
    assert (rows.tasks[0], rows.peak_bytes[0], rows.seconds[0], rows.slot[0]) == (0, 5, 0.5, 3)


def test_an_outcome_is_found_by_its_number_on_the_wire(store: Store) -> None:
    one, two = make_space(), make_space(shift_bohr=1.0)
    store.attach(1, one)
    store.attach(2, two)
    outcomes: list[Outcome] = [make_outcome(one, 3, space_id=1), make_outcome(two, 4, space_id=2)]
    store.append(outcomes)
    assert (store.done(1).tolist(), store.done(2).tolist()) == ([3], [4])


def test_text_that_is_no_text_does_not_stop_the_store(store: Store) -> None:
    space = make_space(label="caf\u00e9 \udcff")
    store.attach(0, space)
    bad = dataclasses.replace(make_failure(space, 0, "bytes \udcff\x00 here"), host="h\ud800")
    store.append([bad, make_outcome(space, 1)])
    assert store.failures(0)[0][1].message == "bytes ?\x00 here"
    assert store.rows(0).host.tolist() == ["h?", "node1"]
