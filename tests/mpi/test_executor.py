"""MPIExecutor: every rank makes the same calls, gets the same results and the same errors."""

from __future__ import annotations

import gc
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from qcmb_mpi import (
    ExecutorConfig,
    InputError,
    MPIExecutor,
    ParallelManyBodyComputer,
    SequentialExecutor,
    TasksFailed,
    TaskStatus,
)
from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.executors.mpi.bell import Bell
from qcmb_mpi.execution.executors.mpi.mail import Mail
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbour, Neighbours
from tests.edge.task_cases import IMPORTS, energies, energy, many_body_input, task
from tests.mpi.together import error_of, parallel_assert, processes, same_everywhere

if TYPE_CHECKING:
    from mpi4py import MPI

pytestmark = pytest.mark.mpi

compute = ParallelManyBodyComputer.from_manybodyinput
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def executor() -> Iterator[MPIExecutor]:
    """Give one warm pool to all tests here: what one does must not harm the next."""
    with MPIExecutor(ExecutorConfig(n_workers=1, imports=IMPORTS)) as made:
        assert isinstance(made, MPIExecutor)
        yield made


def serial(inp: dict[str, Any]) -> Any:
    """Return the result of the sequential executor."""
    with SequentialExecutor(ExecutorConfig(imports=IMPORTS)) as one:
        return compute(inp, executor=one)


def same_numbers(one: Any, other: Any) -> bool:
    """Tell whether two results are equal to the bit."""
    return bool(
        one.properties.model_dump_json() == other.properties.model_dump_json()
        and np.array_equal(one.return_result, other.return_result)
        and one.stdout == other.stdout
        and list(one.cluster_properties) == list(other.cluster_properties)
    )


@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_every_rank_gets_the_result_of_one_process(executor: MPIExecutor, driver: str) -> None:
    inp = many_body_input(5, driver=driver)
    result = compute(inp, executor=executor)
    same_everywhere(executor.comm, result.model_dump_json())
    parallel_assert(executor.comm, same_numbers(result, serial(inp)))


def test_a_warm_pool_keeps_its_slots(executor: MPIExecutor) -> None:
    compute(many_body_input(4), executor=executor)
    before = processes(executor.comm)
    for shift_bohr in (0.1, -0.2):
        inp = many_body_input(4, shift_bohr=shift_bohr)
        result = compute(inp, executor=executor)
        parallel_assert(executor.comm, same_numbers(result, serial(inp)))
    parallel_assert(executor.comm, len(before) > executor.n_ranks)
    parallel_assert(executor.comm, processes(executor.comm) == before)


def test_explicit_tasks_give_every_rank_the_same_list(executor: MPIExecutor) -> None:
    told: list[tuple[int, int]] = []
    sizes = [4, 1, 3, 2, 5, 1]
    results = executor.execute([task(n) for n in sizes], lambda *counts: told.append(counts))
    parallel_assert(executor.comm, energies(results) == [energy(n) for n in sizes], results)
    same_everywhere(executor.comm, [each.task_id for each in results])
    is_told = told == [(n, len(sizes)) for n in range(1, len(sizes) + 1)]
    parallel_assert(executor.comm, is_told if executor.is_master else not told, told)


def test_failed_tasks_are_results_on_every_rank(executor: MPIExecutor) -> None:
    faults = {"1": "input", "2": "crash"}
    results = executor.execute([task(n, faults=faults) for n in (1, 2, 3)])
    statuses = [each.status for each in results]
    expected = [TaskStatus.FAILED, TaskStatus.FAILED, TaskStatus.COMPLETED]
    parallel_assert(executor.comm, statuses == expected, results)
    parallel_assert(executor.comm, [each.attempts for each in results] == [1, 3, 1], results)


@pytest.mark.parametrize(
    ("kind", "inp", "words"),
    [
        (InputError, {"specification": {}}, "molecule"),
        (InputError, many_body_input() | {"schema_version": 3}, "schema_version"),
        (QcmbError, many_body_input() | {"molecule": {"symbols": ["He"]}}, "molecule"),
        (TasksFailed, many_body_input(faults={"3": "raise"}), "8 tasks failed for good"),
    ],
)
def test_an_error_on_the_master_is_raised_on_every_rank(
    executor: MPIExecutor, kind: type[QcmbError], inp: dict[str, Any], words: str
) -> None:
    error = error_of(lambda: compute(inp, executor=executor))
    parallel_assert(executor.comm, isinstance(error, kind) and words in str(error), error)
    same_everywhere(executor.comm, str(error))


def test_failed_tasks_are_named_on_every_rank(executor: MPIExecutor) -> None:
    error = error_of(lambda: compute(many_body_input(faults={"2": "input"}), executor=executor))
    failed = error.failed if isinstance(error, TasksFailed) else ()
    parallel_assert(executor.comm, len(failed) == 12, error)
    same_everywhere(executor.comm, failed)


def test_a_bug_on_the_master_is_an_error_on_every_rank(executor: MPIExecutor) -> None:
    def interrupt(n_ended: int, n_all: int) -> None:
        raise RuntimeError("the callback has enough")

    error = error_of(lambda: executor.execute([task(n) for n in (1, 2, 3, 4)], interrupt))
    parallel_assert(executor.comm, "has enough" in str(error), error)
    is_known = isinstance(error, RuntimeError if executor.is_master else QcmbError)
    parallel_assert(executor.comm, is_known, error)


def test_a_missing_program_is_refused_on_every_rank_and_the_pool_goes_on(
    executor: MPIExecutor,
) -> None:
    """Every rank's agent refuses; the answers of the later ones come when nobody waits."""
    inp = many_body_input()
    inp["specification"]["specification"]["(auto)"]["program"] = "nosuch"
    error = error_of(lambda: compute(inp, executor=executor))
    parallel_assert(executor.comm, "nosuch" in str(error), error)
    results = executor.execute([task(2), task(3)])
    parallel_assert(executor.comm, energies(results) == [energy(2), energy(3)], results)


def test_every_rank_has_an_agent_and_rank_0_is_the_master(executor: MPIExecutor) -> None:
    ranks = list(range(executor.comm.size))
    parallel_assert(executor.comm, executor.n_ranks == len(ranks))
    parallel_assert(executor.comm, executor.is_master == (executor.comm.rank == 0))
    found = sorted(executor.transport.infos) if executor.is_master else ranks
    parallel_assert(executor.comm, found == ranks, found)


def test_the_executor_of_a_launcher_with_ranks_is_mpi() -> None:
    """Without an executor each call makes and ends its own; the second one must start as well."""
    from mpi4py import MPI

    inp = many_body_input(3)
    before = processes(MPI.COMM_WORLD)
    for _ in range(2):
        result = compute(inp, n_workers=1, imports=IMPORTS)
        parallel_assert(MPI.COMM_WORLD, same_numbers(result, serial(inp)))
    parallel_assert(MPI.COMM_WORLD, processes(MPI.COMM_WORLD) == before)


def test_a_dedicated_master_computes_nothing() -> None:
    config = ExecutorConfig(n_workers=1, imports=IMPORTS)
    with MPIExecutor(config, is_master_dedicated=True) as pool:
        assert isinstance(pool, MPIExecutor)
        results = pool.execute([task(n) for n in (1, 2, 3)])
        parallel_assert(pool.comm, energies(results) == [energy(n) for n in (1, 2, 3)], results)
        is_idle = not pool.is_master or pool.transport.infos[0].n_cores == 0
        parallel_assert(pool.comm, is_idle)


def test_an_executor_can_be_opened_again() -> None:
    inp = many_body_input(4)
    again = MPIExecutor(ExecutorConfig(n_workers=1, imports=IMPORTS))
    for _ in range(2):
        with again:
            result = compute(inp, executor=again)
            parallel_assert(again.comm, same_numbers(result, serial(inp)))


def test_a_communicator_without_the_first_rank_works() -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    part = world.Split(color=int(world.rank > 0), key=world.rank)
    with MPIExecutor(ExecutorConfig(n_workers=1, imports=IMPORTS), comm=part) as group:
        inp = many_body_input(4)
        result = compute(inp, executor=group)
        parallel_assert(world, same_numbers(result, serial(inp)))


def test_what_cannot_be_sent_is_an_error_on_every_rank(executor: MPIExecutor) -> None:
    error = error_of(lambda: executor.share(lambda: lambda: 1))
    parallel_assert(executor.comm, isinstance(error, QcmbError), error)


def test_the_master_may_be_busy_with_its_own_for_any_time(executor: MPIExecutor) -> None:
    """It says nothing meanwhile: an assembly, a long table, what a script does on rank 0."""
    results = executor.execute([task(2), task(3)])
    parallel_assert(executor.comm, energies(results) == [energy(2), energy(3)], results)
    worker = executor._worker
    if worker is not None:
        before_s, worker._heartbeat_s = worker._heartbeat_s, 0.1
    told = executor.share(busy)
    if worker is not None:
        worker._heartbeat_s = before_s
    parallel_assert(executor.comm, told == "done")


def busy() -> str:
    """Take thirty times as long as the beats of the test above are apart."""
    time.sleep(3.0)
    return "done"


class Refusing:
    """A communicator that sends no bytes objects, as if they were too large."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm

    def isend(self, message: object, to: int, tag: int) -> object:
        """Send a message."""
        if isinstance(getattr(message, "value", None), bytes):
            raise OverflowError("integer 2147483648 does not fit in 'int'")
        return self._comm.isend(message, to, tag)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


def test_what_mpi_refuses_to_send_is_an_error_on_every_rank(executor: MPIExecutor) -> None:
    mail = executor.transport._mail if executor.is_master else None  # type: ignore[attr-defined]
    if mail is not None:
        mail.comm = Refusing(mail.comm)
    error = error_of(lambda: executor.share(lambda: b"large"))
    if mail is not None:
        mail.comm = mail.comm._comm
    is_told = isinstance(error, QcmbError) and "cannot be sent to the other ranks" in str(error)
    parallel_assert(executor.comm, is_told, error)
    same_everywhere(executor.comm, executor.share(lambda: b"small"))


class Undivided:
    """A communicator that is not to be divided."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        assert not name.startswith("Split")
        return getattr(self._comm, name)


def test_ranks_that_share_a_node_meet_without_dividing_the_communicator() -> None:
    comm: Any = Undivided(MPIExecutor().comm)
    met = MPIExecutor()._meet_neighbours(comm, Bell())
    if met[0] is not None:
        met[0].close()
    parallel_assert(comm, [row.rank for row in met[2]] == list(range(comm.size)), met[2])


def test_a_message_rings_the_bell_of_a_rank_of_the_node() -> None:
    comm = MPIExecutor().comm
    mail, bell = Mail(comm), Bell()
    rows = mail.comm.allgather(Neighbour(comm.rank, frozenset(), bell.address))
    neighbours = Neighbours(rows, bell)
    mail.ring = neighbours.ring
    mail.send((comm.rank + 1) % comm.size, "a word")
    has_rung = bool(select.select([bell], [], [], PATIENCE_S)[0])
    give_up_s = time.monotonic() + PATIENCE_S
    while not (heard := mail.receive()):
        assert time.monotonic() < give_up_s
    mail.flush(PATIENCE_S)
    neighbours.close()
    parallel_assert(comm, has_rung)
    parallel_assert(comm, heard == [((comm.rank - 1) % comm.size, "a word")], heard)


class Line:
    """A communicator that finds what has come only at the look after the one that fetches it."""

    def __init__(self, *messages: object) -> None:
        self._coming = deque(messages)
        self._there: deque[object] = deque()

    def improbe(self, *_: object) -> Any:
        """Return what is there."""
        if self._there:
            return Arrived(self._there.popleft())
        self._there, self._coming = self._coming, self._there
        return None


class Arrived:
    """A matched message, and its own request."""

    def __init__(self, message: object) -> None:
        self._message = message

    def irecv(self) -> Arrived:
        """Return the request."""
        return self

    def test(self) -> tuple[bool, object]:
        """Return that it is done, and the message."""
        return True, self._message


def test_what_the_first_look_fetches_is_found_at_once() -> None:
    comm = MPIExecutor().comm
    mail = Mail(comm)
    sender: Any = Line("one", "two")
    mail.comm = sender
    heard = [message for _, message in mail.receive()]
    parallel_assert(comm, heard == ["one", "two"], heard)


def use(comm: MPI.Comm) -> None:
    """Open an executor on a communicator, let it work, and end it."""
    with MPIExecutor(ExecutorConfig(n_workers=1, imports=IMPORTS), comm=comm) as made:
        results = made.execute([task(n) for n in (1, 2, 3)])
        parallel_assert(comm, energies(results) == [energy(n) for n in (1, 2, 3)], results)


def test_the_users_communicator_is_left_alone() -> None:
    from mpi4py import MPI

    given = MPI.COMM_WORLD.Dup()
    given.Set_errhandler(MPI.ERRORS_ARE_FATAL)
    sent = given.isend("the user's", (given.rank + 1) % given.size, tag=1)
    use(given)
    has_own_handler = given.Get_errhandler() == MPI.ERRORS_ARE_FATAL
    given.Set_errhandler(MPI.ERRORS_RETURN)
    got = given.improbe((given.rank - 1) % given.size, tag=1)
    word = None if got is None else got.recv()
    if got is not None:
        sent.wait()
    parallel_assert(MPI.COMM_WORLD, word == "the user's", word)
    parallel_assert(MPI.COMM_WORLD, has_own_handler)
    given.Free()


def test_two_executors_in_a_row_leave_as_much_behind_as_one() -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    counts = [held(world)]
    given = world.Dup()
    for _ in range(3):
        use(given)
        gc.collect()
        counts.append(held(world))
    given.Free()
    counts.append(held(world))
    parallel_assert(world, counts[1] == counts[2] == counts[3], counts)
    parallel_assert(world, counts[0][0] == counts[4][0], counts)


def held(comm: MPI.Comm) -> tuple[int, int]:
    """Return the number of the next communicator, and how many files are open."""
    probe = comm.Dup()
    number = probe.py2f()
    probe.Free()
    return number, psutil.Process().num_fds()
