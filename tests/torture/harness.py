"""Run a scenario: attack its rounds, check the laws after each, compare the last result.

Rules of this file
------------------
1. What is right is judged from outside: exit codes, files, the store, processes and the journal
   that the flaky program keeps itself.
2. Everything random comes from the seed and the scenario's name.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qcmb_mpi import schema
from tests.launch.jobs import command, environment, unmeasured
from tests.launch.test_run import helium
from tests.torture import journal, laws
from tests.torture.assault import Assault, damage, lock_of
from tests.torture.processes import MARK, describe, kill_all, living
from tests.torture.scenarios import LOCAL, N_FRAGMENTS, Event, Pool, Round, Scenario

_RUN_LIMIT_S = 60.0
_GONE_LIMIT_S = 30.0
_POLL_S = 0.01
_MOST_ROUNDS = 4


class Broken(AssertionError):
    """A law was broken."""


def calculation() -> dict[str, Any]:
    """Return the input of all scenarios: helium atoms, 3-body, nocp and cp."""
    return helium(N_FRAGMENTS, driver="gradient")


def tasks() -> list[str]:
    """Return the names that the flaky program gives to the tasks."""
    everything = range(1, N_FRAGMENTS + 1)
    real = [r for n in (1, 2, 3) for r in itertools.combinations(everything, n)]
    nocp = [laws.task_name(r, r) for r in real]
    return [*nocp, *(laws.task_name(r, tuple(everything)) for r in real)]


@functools.cache
def reference() -> bytes:
    """Return the result of an undisturbed run."""
    run = _Scene(Scenario("reference", [Round(Pool(n_slots=2))], sleep_s=(0.0, 0.0)), seed=0)
    with run:
        run.attack(run.scenario.rounds[0])
        return run.result()


def torture(
    scenario: Scenario, seed: int, tell: Callable[[str], None] = lambda _story: None
) -> int:
    """Run a scenario, tell its story and return how many faults were injected.

    Raises
    ------
    Broken
        A law was broken; says how to see it again.
    """
    with _Scene(scenario, seed) as scene:
        try:
            for each in scenario.rounds:
                scene.attack(each)
            scene.finish()
            laws.require(scene.result() == reference(), "the result has other bytes")
        except Exception as error:
            kept = scene.keep()
            raise Broken(
                f"{scenario.name}, seed {seed}: {error}\n{scene.story()}\n"
                f"files: {kept}\n"
                f"again: python -m tests.torture --seed {seed} {scenario.name}"
            ) from error
        tell(scene.story())
        return scene.n_faults


class _Scene:
    """The folder, processes and history of one scenario."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self._rng = scenario.rng(seed, "events")
        self._mark = uuid.uuid4().hex
        self._folder = Path(tempfile.mkdtemp(prefix="qcmb-x-"))
        self._is_kept = False
        self._n_external = 0
        self._n_runs = 0
        self._last = -1
        self._history: list[str] = []
        self._began_s = time.monotonic()
        self._old_lock = ""
        self._prepare(scenario.rng(seed, "faults").sample(tasks(), len(scenario.faults)))

    def __enter__(self) -> _Scene:
        return self

    def __exit__(self, *_: object) -> None:
        kill_all(self._mark)
        if not self._is_kept:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self, victims: Sequence[str]) -> None:
        document = calculation()
        (self._folder / "marks").mkdir()
        (self._folder / "in.json").write_text(json.dumps(document))
        plan = {
            "positions": [row[2] for row in document["molecule"]["geometry"]],
            "sleep_s": self.scenario.sleep_s,
            "journal": str(self._folder / "journal"),
            "marks": str(self._folder / "marks"),
            "faults": dict(zip(victims, self.scenario.faults, strict=True)),
        }
        (self._folder / "plan.json").write_text(json.dumps(plan))

    @property
    def n_faults(self) -> int:
        """Faults that really happened."""
        return self._n_external + len(list((self._folder / "marks").iterdir()))

    @property
    def _store(self) -> Path:
        return self._folder / "in.store.sqlite"

    def result(self) -> bytes:
        """Return what must not differ of the result."""
        return schema.strip_volatile((self._folder / "in.result.json").read_bytes())

    def keep(self) -> Path:
        """Keep the files for who looks into it."""
        self._is_kept = True
        return self._folder

    def story(self) -> str:
        """Tell what happened."""
        return "\n".join(self._history)

    def _note(self, what: str) -> None:
        self._history.append(f"  {time.monotonic() - self._began_s:5.1f} s  {what}")

    def attack(self, round_: Round) -> None:
        """Run a round and check the laws."""
        if round_.damage:
            self._damage(round_)
        self._last = self._run(round_.pool, round_.events, round_.exits)

    def finish(self) -> None:
        """Run undisturbed until it is complete."""
        for _ in range(_MOST_ROUNDS):
            if self._last == 0:
                return
            self._last = self._run(LOCAL, (), frozenset({0, 1}))
        raise Broken("it does not come to an end")

    def _damage(self, round_: Round) -> None:
        """Damage the store; if a run refuses it, do what that says."""
        damage(self._store, round_.damage, self._rng, self._old_lock)
        self._n_external += 1
        # Only a look: what damage leads to that nobody sees is judged by the result.
        assault = Assault(self._mark, self._store, self._rng)
        code, said = self._start(round_.pool, (Event(1, "SIGKILL"),), assault)
        self._note(f"{round_.damage}: exit code {code}")
        if code == 2:
            laws.require("repair" in said, f"the way to repair it is not told: {said}")
            code, said = self._wait(self._popen(command("repair", self._store.name)), ())
            self._note(f"repair: exit code {code}: {said.strip()}")
            if code == 2 and "no result in it is whole" in said:
                self._store.unlink()  # as it says
            else:
                laws.require(code == 0, f"repair gives exit code {code}: {said}")

    def _run(self, pool: Pool, events: Sequence[Event], exits: frozenset[int] | None) -> int:
        before = laws.stored(self._store, self._folder / "in.json")
        n_entries = len(self._journal())
        assault = Assault(self._mark, self._store, self._rng)
        code, said = self._start(pool, events, assault)
        self._n_external += assault.n_done
        entries = self._journal()[n_entries:]
        after = laws.stored(self._store, self._folder / "in.json")
        n_ended = len(list(journal.ends(entries)))
        self._note(
            f"run {self._n_runs} on {pool}: {[(e.after, e.action, e.target) for e in events]}: "
            f"exit code {code}, {len(before)} stored, {n_ended} ended, {len(after)} stored"
        )
        timeout_s = self.scenario.timeout_s
        losses = [*assault.losses, *journal.losses_of_faults(entries, timeout_s)]
        laws.require(exits is None or code in exits, f"exit code {code}, not {exits}: {said}")
        laws.require("Traceback" not in said, f"a traceback: {said}")
        laws.check_store(before, after, entries, losses)
        if code == 0 or (code == 1 and exits is not None):
            laws.check_summary(self._folder / "in.run.json", before, after, len(tasks()))
        if lock_of(self._store).exists():
            self._old_lock = lock_of(self._store).read_text()
        return code

    def _journal(self) -> list[journal.Entry]:
        return journal.read(self._folder / "journal")

    def _start(self, pool: Pool, events: Sequence[Event], assault: Assault) -> tuple[int, str]:
        (self._folder / "tmp").mkdir(exist_ok=True)
        words = [*self.scenario.words, *pool.words, "--timeout", str(self.scenario.timeout_s)]
        words += ["--heartbeat", str(self.scenario.heartbeat_s)]
        job = self._popen(
            command(
                *("run", "in.json", "--import", "tests.flaky", *words),
                n_ranks=pool.n_ranks,
                is_tolerant=pool.is_tolerant,
            )
        )
        return self._wait(job, events, assault.perform)

    def _popen(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        temporary = str(self._folder / "tmp")
        variables = environment(
            FLAKY_PLAN=str(self._folder / "plan.json"),
            TMPDIR=temporary,
            OMPI_MCA_btl_sm_backing_directory=temporary,
            **{MARK: self._mark},
        )
        self._n_runs += 1
        with (self._folder / f"out.{self._n_runs}").open("wb") as output:
            return subprocess.Popen(
                words,
                cwd=self._folder,
                env=unmeasured(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(
        self,
        job: subprocess.Popen[bytes],
        events: Sequence[Event],
        perform: Callable[[Event], None] = lambda _event: None,
    ) -> tuple[int, str]:
        """Wait for the end of a job and of all its processes; meanwhile do things to it."""
        due = list(events)
        n_before = self._n_ends()
        give_up_s = time.monotonic() + _RUN_LIMIT_S
        while job.poll() is None:
            self._require_in_time(give_up_s, "it hangs")
            if due and self._n_ends() - n_before >= due[0].after:
                perform(due.pop(0))
            else:
                time.sleep(_POLL_S)
        give_up_s = time.monotonic() + _GONE_LIMIT_S
        while living(self._mark):
            self._require_in_time(give_up_s, f"left behind after exit code {job.returncode}")
            time.sleep(_POLL_S)
        return job.returncode, self._said()

    def _said(self) -> str:
        said = (self._folder / f"out.{self._n_runs}").read_text(errors="replace")
        return "".join(c if c.isprintable() or c == "\n" else "?" for c in said)

    def _n_ends(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "journal").read_bytes().count(b'["end"')
        return 0

    def _require_in_time(self, give_up_s: float, what: str) -> None:
        if time.monotonic() > give_up_s:
            self._note(what)
            left = describe(self._mark)
            raise Broken(f"{what}:\n{left}\n{self._said()[-3000:]}")
