"""Configurations that adapt to the work, and to the method."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import (
    AdaptiveParallelConfig,
    ExecutorConfig,
    InputError,
    MethodAwareConfig,
    MethodSettings,
    MultiprocessingExecutor,
    schema,
)
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.execution.executors.configs import adapted, demanded, fitted
from qcmb_mpi.execution.layout import place
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.scheduling.messages import TaskClass
from tests.edge.task_cases import IMPORTS, many_body_input

NODE = AgentInfo(0, "node", 8, 8 * 10**9, 8 * 10**9, can_widen=True)


def work(n_tasks: int, cost_s: float = 10.0, memory_bytes: int = 10**8) -> tuple[TaskClass, ...]:
    return (TaskClass(0, range(n_tasks), cost_s, memory_bytes, key="k"),)


def chosen(config: ExecutorConfig, *classes: TaskClass, **limits: Any) -> tuple[Any, Any]:
    found = adapted(config, [NODE], classes, **limits)
    return found.n_workers, found.n_threads


def test_without_bounds_the_choice_stays_automatic() -> None:
    assert chosen(AdaptiveParallelConfig(), *work(100)) == (None, None)
    assert chosen(ExecutorConfig(), *work(100)) == (None, None)
    assert chosen(AdaptiveParallelConfig(max_workers=8, max_threads=8), *work(100)) == (None, None)
    assert chosen(AdaptiveParallelConfig(max_workers=2)) == (None, None)


def test_bounds_are_kept_and_used_up() -> None:
    assert chosen(AdaptiveParallelConfig(max_workers=2), *work(100)) == (2, 4)
    assert chosen(AdaptiveParallelConfig(max_workers=2, max_threads=3), *work(100)) == (2, 3)
    assert chosen(AdaptiveParallelConfig(min_threads=2), *work(100)) == (4, 2)
    assert chosen(AdaptiveParallelConfig(max_threads=2), *work(1)) == (4, 2)
    assert chosen(AdaptiveParallelConfig(min_workers=4), *work(1)) == (4, 2)
    assert chosen(AdaptiveParallelConfig(max_workers=3), *work(100), thread_limit=1) == (3, 1)


@pytest.mark.parametrize(
    ("bounds", "layouts"),
    [
        ({"max_workers": 8}, [(8, 1), (8, 1)]),
        ({"min_threads": 2}, [(4, 2), (8, 2)]),
        ({"max_workers": 12, "min_threads": 2}, [(4, 2), (8, 2)]),
    ],
)
def test_bounds_hold_on_every_agent(bounds: dict[str, int], layouts: list[tuple[int, int]]) -> None:
    infos = [NODE, replace(NODE, rank=1, n_cores=16, memory_bytes=16 * 10**9)]
    config = adapted(AdaptiveParallelConfig(**bounds), infos, work(1000))
    found = map(place(infos, work(1000), config).layout_of, infos)
    assert [(each.n_slots, each.n_threads) for each in found] == layouts


def test_memory_and_cores_limit_what_bounds_can_ask_for() -> None:
    large = work(100, memory_bytes=3 * 10**9)
    assert chosen(AdaptiveParallelConfig(max_threads=1), *large)[0] in (None, 2)
    with pytest.raises(InputError, match="min_workers"):
        chosen(AdaptiveParallelConfig(min_workers=4), *large)
    with pytest.raises(InputError, match="8 cores"):
        chosen(AdaptiveParallelConfig(min_workers=3, min_threads=4), *work(9))


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_workers": 0},
        {"max_threads": 1.5},
        {"max_workers": True},
        {"min_workers": 3, "max_workers": 2},
        {"min_threads": 3, "n_threads": 2},
        {"max_workers": 3, "n_workers": 4},
        {"n_workers": -1},
    ],
)
def test_bounds_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        AdaptiveParallelConfig(**wrong)


def test_methods_go_before_families_and_the_most_demanding_holds_for_the_run() -> None:
    config = MethodAwareConfig(
        timeout_per_task=60.0,
        methods={
            "DFT": {"n_threads": 2, "timeout_s": 100.0},
            "b3lyp": MethodSettings(timeout_s=30.0),
            "ccsd(t)": {"n_threads": 4, "memory_bytes": 7},
        },
    )
    assert config.settings_of("pyscf", "B3LYP") == MethodSettings(2, None, 30.0)
    assert config.settings_of("pyscf", "pbe") == MethodSettings(2, None, 100.0)
    assert config.settings_of("pyscf", "hf") == MethodSettings()
    run = fitted(config, [("pyscf", "b3lyp"), ("pyscf", "ccsd(t)")])
    assert (run.n_threads, run.timeout_per_task) == (4, 60.0)
    run = fitted(config, [("pyscf", "b3lyp")])
    assert (run.n_threads, run.timeout_per_task) == (2, 30.0)
    run = fitted(config, [("pyscf", "hf")])
    assert (run.n_threads, run.timeout_per_task) == (None, 60.0)
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_name_that_is_no_method_of_the_run_and_no_family_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = {"n_threads": 2}
    config = MethodAwareConfig(methods=dict.fromkeys(("B3LYP", "ccsd(t)", "hfx"), settings))
    fitted(config, [("pyscf", "b3lyp"), ("pyscf", "HF")])
    (warning,) = caplog.messages
    for words in ("methods: 'hfx'", "this run (b3lyp, hf)", "mp2", "did you mean hf"):
        assert words in warning


def test_memory_that_a_method_is_known_to_need_replaces_the_prediction() -> None:
    config = MethodAwareConfig(methods={"ccsd(t)": {"memory_bytes": 5 * 10**9}})
    classes = work(3)
    (told,) = demanded(config, classes, lambda _: ("pyscf", "ccsd(t)"))
    assert told.memory_bytes == 5 * 10**9
    assert told.floor_bytes == told.memory_bytes
    assert demanded(config, classes, lambda _: ("pyscf", "hf")) == classes
    assert demanded(ExecutorConfig(), classes, lambda _: ("pyscf", "ccsd(t)")) == classes


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": {"hf": {"speed": 3}}},
        {"methods": {"hf": 4}},
        {"methods": ["hf"]},
        {"methods": {"hf": {"n_threads": 0}}},
        {"methods": {"hf": {"timeout_s": "1"}}},
        {"methods": {"hf": {"n_threads": 2}}, "n_threads": 2},
    ],
)
def test_settings_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        MethodAwareConfig(**wrong)


def run(config: ExecutorConfig, folder: Path, **keywords: Any) -> RunEnd:
    loaded = schema.load_input(many_body_input(**keywords))
    with MultiprocessingExecutor(config) as executor:
        return run_expansion(loaded, executor, RunOptions(store=folder / "a.sqlite"), stop=Stop())


def test_a_run_keeps_within_the_bounds(tmp_path: Path) -> None:
    end = run(AdaptiveParallelConfig(max_workers=1, max_threads=1, imports=IMPORTS), tmp_path)
    assert end.status == "complete"
    assert [(agent["slots"], agent["threads"]) for agent in end.summary["agents"]] == [(1, 1)]


def test_a_run_stops_tasks_at_the_time_limit_of_their_method(tmp_path: Path) -> None:
    config = MethodAwareConfig(
        methods={"hf": {"timeout_s": 0.2}}, imports=IMPORTS, n_workers=1, max_retries=0
    )
    loaded = schema.load_input(many_body_input(sleep=30.0))
    with MultiprocessingExecutor(config) as executor:
        options = RunOptions(store=tmp_path / "a.sqlite", is_stopping_on_failure=True)
        end = run_expansion(loaded, executor, options, stop=Stop())
    assert end.status == "failed"
    assert "0.2 s" in end.summary["failed"][0]["message"]
