"""QCEngine called with a configuration made once: what comes back is what QCEngine itself gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation
from qcengine import exceptions
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.programs import calls
from qcmb_mpi.programs.calls import Caller
from tests.edge.harness_cases import WATER, WATER_GHOST, atomic_input

Act = Callable[[AtomicInput, Any], Any]
GIVEN = SlotResources(n_threads=2, memory_bytes=2**30, scratch="/tmp").task_config


class Puppet(ProgramHarness):
    """A program that does what a test says."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "puppet",
        "scratch": False,
        "thread_safe": True,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }
    act: ClassVar[Act]
    is_found: ClassVar[bool] = True

    @classmethod
    def found(cls, raise_error: bool = False) -> bool:
        if not cls.is_found and raise_error:
            raise ModuleNotFoundError("Please install puppet")
        return cls.is_found

    def get_version(self) -> str:
        return "1.0"

    def compute(self, input_data: AtomicInput, config: Any) -> Any:
        return type(self).act(input_data, config)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    qcengine.register_program(Puppet())
    yield
    qcengine.unregister_program("puppet")


def result(inp: AtomicInput, config: Any) -> AtomicResult:
    """Tell what the configuration and the environment are, in a result."""
    import os

    told = {**config.model_dump(), "threads": os.environ["OMP_NUM_THREADS"]}
    return AtomicResult(
        input_data=inp,
        molecule=inp.molecule,
        properties={"return_energy": -1.0, "calcinfo_natom": len(inp.molecule.symbols)},
        return_result=-1.0,
        provenance={"creator": "Puppet", "version": "1.0", "routine": "puppet"},
        extras=told,
        stdout="said",
        success=True,
    )


def raising(error: Exception) -> Act:
    def act(_inp: AtomicInput, _config: Any) -> Any:
        raise error

    return act


def failed(inp: AtomicInput, _config: Any) -> FailedOperation:
    error = {"error_type": "random_error", "error_message": "no", "extras": {"stdout": "x"}}
    return FailedOperation(input_data=inp, error=error, success=False)


def content(found: Any) -> Any:
    """Return all fields, without what differs from call to call and without the frames."""
    dump = found.model_dump()
    for holder in (dump, dump.get("input_data") or {}):
        (holder.get("provenance") or {}).pop("wall_time", None)
    if dump.get("error"):
        text = dump["error"]["error_message"]
        dump["error"]["error_message"] = re.sub(r'  File ".*\n(    .*\n)*', "", text)
    return str(dump)


ACTS: dict[str, Act] = {
    "success": result,
    "input": raising(exceptions.InputError("no")),
    "convergence": raising(exceptions.ConvergenceError("no", extras={"stdout": "said"})),
    "resource": raising(exceptions.ResourceError("no")),
    "random": raising(exceptions.RandomError("no")),
    "unknown": raising(exceptions.UnknownError("no")),
    "anything": raising(ZeroDivisionError("no")),
    "returned failure": failed,
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("atoms", [WATER, WATER_GHOST], ids=["water", "ghost"])
def test_every_field_is_what_qcengine_gives(name: str, atoms: Any) -> None:
    Puppet.act = staticmethod(ACTS[name])
    inp = atomic_input(atoms, "hf", n_ghosts=len(atoms[0]) - 3)
    expected = qcengine.compute(inp, "puppet", task_config=GIVEN, return_version=2)
    caller = Caller(GIVEN)
    for _ in range(2):
        found = caller.compute(inp, "puppet")
        assert type(found) is type(expected)
        assert content(found) == content(expected)
    assert expected.success is (name == "success")


def test_a_program_that_is_unknown_or_gone_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Puppet, "is_found", False)
    inp = atomic_input(WATER, "hf")
    for program in ("puppet", "no such program", "geometric"):
        expected = qcengine.compute(inp, program, task_config=GIVEN, return_version=2)
        assert not expected.success
        assert content(Caller(GIVEN).compute(inp, program)) == content(expected)


def test_what_no_harness_may_give_fails_alike() -> None:
    Puppet.act = staticmethod(lambda _inp, _config: None)
    inp = atomic_input(WATER, "hf")
    with pytest.raises(AttributeError) as expected:
        qcengine.compute(inp, "puppet", task_config=GIVEN, return_version=2)
    with pytest.raises(AttributeError) as found:
        Caller(GIVEN).compute(inp, "puppet", is_bare=True)
    assert str(found.value) == str(expected.value)


def test_the_configuration_is_made_once_and_no_harness_can_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    original = calls.get_config
    monkeypatch.setattr(calls, "get_config", lambda **k: made.append(k) or original(**k))

    def spoil(inp: AtomicInput, config: Any) -> AtomicResult:
        told = result(inp, config)
        config.ncores = 77
        return told

    Puppet.act = staticmethod(spoil)
    caller = Caller(GIVEN)
    inp = atomic_input(WATER, "hf")
    told = [caller.compute(inp, "puppet").extras["ncores"] for _ in range(3)]
    assert (told, len(made)) == ([2, 2, 2], 1)


def test_a_configuration_in_the_input_is_heard() -> None:
    Puppet.act = staticmethod(result)
    inp = atomic_input(WATER, "hf")
    inp.specification.extras["_qcengine_local_config"] = {"ncores": 3}
    assert Caller(GIVEN).compute(inp, "puppet").extras["ncores"] == 3


def test_a_bare_answer_is_the_harness_own() -> None:
    kept = []

    def act(inp: AtomicInput, config: Any) -> AtomicResult:
        kept.append(result(inp, config))
        return kept[-1]

    Puppet.act = staticmethod(act)
    assert Caller(GIVEN).compute(atomic_input(WATER, "hf"), "puppet", is_bare=True) is kept[0]
