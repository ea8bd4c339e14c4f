"""Many geometries on one warm pool: the same numbers as sequential QCManyBody at each of them."""

from __future__ import annotations

import concurrent.futures
import copy
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import (
    ExecutorConfig,
    InputError,
    ManyBodyPotential,
    MultiprocessingExecutor,
    SequentialExecutor,
    TasksFailed,
    schema,
)
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.warm import cool, warm_executor
from tests import stock
from tests.edge.agent_cases import slots_of
from tests.edge.task_cases import IMPORTS, many_body_input, molecule
from tests.flaky import FlakyHarness

CONFIG = ExecutorConfig(n_workers=2, imports=IMPORTS)


@pytest.fixture(scope="module")
def pool() -> Iterator[MultiprocessingExecutor]:
    """One pool for all tests here: what one does must not harm the next."""
    assert FlakyHarness().found()
    with MultiprocessingExecutor(CONFIG) as made:
        yield made


def geometries(n_atoms: int, number: int) -> list[np.ndarray]:
    """Return some geometries near the first one."""
    start = np.array(molecule(n_atoms)["geometry"])
    wave = np.sin(np.arange(3.0 * n_atoms)).reshape(-1, 3)
    return [start + 0.05 * step * wave for step in range(number)]


@pytest.mark.parametrize("driver", ["energy", "gradient"])
@pytest.mark.parametrize("bsse_type", [["nocp"], ["cp"], ["vmfc"]])
def test_every_geometry_has_the_numbers_of_qcmanybody(
    pool: MultiprocessingExecutor, driver: str, bsse_type: list[str]
) -> None:
    document = many_body_input(4, driver=driver, bsse_type=bsse_type)
    document["specification"]["keywords"]["return_total_data"] = False
    potential = ManyBodyPotential(document, pool)
    for geometry in geometries(4, 3):
        energy, gradient = potential.gradient(geometry)
        expected, slope = stock.gradient(document, geometry)
        assert energy == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-12)
        assert potential.energy(geometry.ravel()) == pytest.approx(expected, abs=1e-12)


def test_one_pool_serves_all_who_do_not_say_which(pool: MultiprocessingExecutor) -> None:
    slots = []
    for n in (4, 3):
        potential = ManyBodyPotential(many_body_input(n))
        for geometry in geometries(n, 3):
            potential.gradient(geometry)
            slots.append({slot.pid for slot in slots_of(os.getpid())})
    assert potential.executor is pool
    assert len(slots[0]) == 2
    assert slots == slots[:1] * 6


def test_the_innermost_open_pool_is_used(pool: MultiprocessingExecutor) -> None:
    with SequentialExecutor(CONFIG) as inner:
        assert warm_executor() is inner
        with SequentialExecutor(CONFIG) as innermost:
            assert warm_executor() is innermost
        assert warm_executor() is inner
        assert warm_executor(pool) is pool
    assert warm_executor() is pool


def test_a_pool_that_another_thread_has_opened_is_its_own(pool: MultiprocessingExecutor) -> None:
    has_opened, may_close = threading.Event(), threading.Event()

    def other() -> bool:
        with SequentialExecutor(CONFIG) as its:
            has_opened.set()
            may_close.wait(60.0)
            return warm_executor() is its

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        answer = threads.submit(other)
        assert has_opened.wait(60.0)
        assert warm_executor() is pool
        assert threads.submit(warm_executor).result() is pool
        may_close.set()
        assert answer.result()


def test_threads_of_shared_work_compute_on_its_pool(pool: MultiprocessingExecutor) -> None:
    potential = ManyBodyPotential(many_body_input(3), pool)
    places, found = geometries(3, 3), {}

    def compute(index: int) -> None:
        found[index] = potential.energy(places[index])

    def whole() -> None:
        threads = [threading.Thread(target=compute, args=(i,), daemon=True) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert len(found) == 3

    pool.share(whole)
    assert [found[index] for index in range(3)] == [potential.energy(place) for place in places]


def test_shared_work_that_names_no_pool_uses_the_one_that_shares_it() -> None:
    executor = SequentialExecutor(CONFIG)
    assert executor.share(warm_executor) is executor


def test_without_an_open_pool_a_process_has_one_of_its_own(
    pool: MultiprocessingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcmb_mpi.execution.executors.base._open", [])
    own = warm_executor()
    assert own is warm_executor() is not pool
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a forked child would see it
    assert warm_executor() is not own
    monkeypatch.undo()
    cool()
    cool()


def test_what_a_pool_has_learnt_serves_the_next_geometry(
    pool: MultiprocessingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[Any] = []
    recall = CostModel.recall

    def spy(self: CostModel, calibration: Any, **given: Any) -> None:
        recalled.append(calibration)
        recall(self, calibration, **given)

    monkeypatch.setattr(CostModel, "recall", spy)
    pool.learnt = {}
    potential = ManyBodyPotential(many_body_input(4), pool)
    first, second = geometries(4, 2)
    potential.gradient(first)
    assert not any(recalled)
    potential.gradient(second)
    assert "flaky" in str(recalled[-1]["families"])


def test_a_script_that_is_started_again_computes_nothing_twice(tmp_path: Path) -> None:
    config = ExecutorConfig(imports=IMPORTS, checkpoint_file=tmp_path / "path.sqlite")
    told = []
    for _ in range(2):
        with SequentialExecutor(config):
            potential = ManyBodyPotential(many_body_input(3))
            values = [potential.gradient(each) for each in geometries(3, 2)]
            told.append((str(values), potential.end.summary["n_computed"]))
    assert told[0][0] == told[1][0]
    assert told[0][1] > told[1][1] == 0


def test_threads_wait_for_each_other(pool: MultiprocessingExecutor) -> None:
    potential = ManyBodyPotential(many_body_input(3), pool)
    places = geometries(3, 6)
    alone = [potential.energy(each) for each in places]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        assert list(threads.map(potential.energy, places)) == alone


def test_atoms_come_back_in_the_order_of_the_file(
    pool: MultiprocessingExecutor, tmp_path: Path
) -> None:
    rows = ["O 0 0 0", "O 0 0 3", "H 0.76 0.59 0", "H 0.76 0.59 3", "H -0.76 0.59 0"]
    rows.append("H -0.76 0.59 3")
    path = tmp_path / "mixed.xyz"
    path.write_text("\n".join(["6", "", *rows, ""]))
    options = schema.InputOptions(program="flaky", method="any", basis="any", max_nbody=2)
    mixed = ManyBodyPotential(path, pool, options=options)
    assert mixed.symbols == ("O", "O", "H", "H", "H", "H")
    order = [0, 2, 4, 1, 3, 5]
    path.write_text("\n".join(["6", "", *(rows[i] for i in order), ""]))
    sorted_ = ManyBodyPotential(path, pool, options=options)
    np.testing.assert_array_equal(mixed.geometry_bohr[order], sorted_.geometry_bohr)
    one, other = mixed.gradient(mixed.geometry_bohr), sorted_.gradient(sorted_.geometry_bohr)
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1][order], other[1])


def test_what_cannot_be_computed_is_refused_or_told(pool: MultiprocessingExecutor) -> None:
    potential = ManyBodyPotential(many_body_input(3), pool)
    with pytest.raises(InputError, match=r"^geometry: is of other atoms"):
        potential.energy(np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"^molecule\.geometry"):
        potential.energy(np.zeros((3, 3)))
    document = many_body_input(3)
    for given in (document, schema.load_input(document)):
        with pytest.raises(InputError, match=r"^options"):
            ManyBodyPotential(given, pool, options=schema.InputOptions(method="hf"))
    failing = copy.deepcopy(many_body_input(3, faults={"3": "input"}))
    with pytest.raises(TasksFailed):
        ManyBodyPotential(failing, pool).energy(geometries(3, 1)[0])
    assert np.isfinite(potential.energy(geometries(3, 1)[0]))
