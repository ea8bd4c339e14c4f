"""Whatever dies, whenever: the same bytes in the end, and nothing finished is computed again.

One scenario alone: ``python -m tests.torture NAME`` (``--seed`` for another draw).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.torture.harness import reference, torture
from tests.torture.scenarios import SEED, scenarios

LEAST_FAULTS = 200
N_AT_ONCE = 4  # most of a job's time is sleep
SCENARIOS = {scenario.name: scenario for scenario in scenarios()}

pytestmark = [pytest.mark.launch, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[int]]]:
    """Run the chosen scenarios, a few at once, in the order of the tests."""
    ours = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in ours if hasattr(item, "callspec")]
    reference()
    pool = ThreadPoolExecutor(N_AT_ONCE)
    yield {name: pool.submit(torture, SCENARIOS[name], SEED) for name in names}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(runs: dict[str, Future[int]], name: str) -> None:
    assert runs[name].result() > 0, "nothing was injected"


def test_at_least_200_faults_were_injected(runs: dict[str, Future[int]]) -> None:
    assert set(runs) == set(SCENARIOS), "choose scenarios with -k test_nothing_is_lost"
    ended = [run for run in runs.values() if run.exception() is None]
    assert sum(run.result() for run in ended) >= LEAST_FAULTS
