"""What is done to which run: a list of scenarios, each drawn from the seed and its name."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SEED = 20250117
N_FRAGMENTS = 6
TIMEOUT_S = 30.0
HEARTBEAT_S = 2.0


@dataclass(frozen=True)
class Event:
    """Something done to a job from outside, once `after` calculations have ended in this run.

    Parameters
    ----------
    after : int
    action : str
        A signal's name, ``disk-full``, ``disk-free``, ``unlock``, ``no-scratch``.
    target : str
        A role of :mod:`tests.torture.processes`; ``worker`` is any rank but 0, ``all`` all.
    """

    after: int
    action: str
    target: str = "master"


@dataclass(frozen=True)
class Pool:
    """Where a round runs: ``mpiexec -n n_ranks`` (0: no MPI), with ULFM or without."""

    n_ranks: int = 0
    is_tolerant: bool = False
    n_slots: int = 3

    @property
    def words(self) -> list[str]:
        """The options of ``run`` for it."""
        return ["--workers", str(self.n_slots), "--threads", "1"]


LOCAL = Pool()
MPI = Pool(3, n_slots=1)
ULFM = Pool(4, is_tolerant=True, n_slots=1)


@dataclass(frozen=True)
class Round:
    """One run of a scenario.

    Parameters
    ----------
    pool : Pool
    events : sequence of Event
        In the order in which they are to happen.
    exits : set of int, optional
        The exit codes that are right; None: any, something was killed that decides about it.
    damage : str
        What is done to the store or its lock before it: ``cut``, ``flip``, ``zero``,
        ``foreign-lock``, ``dead-lock``.
    """

    pool: Pool = LOCAL
    events: Sequence[Event] = ()
    exits: frozenset[int] | None = frozenset({0})
    damage: str = ""


@dataclass(frozen=True)
class Scenario:
    """Rounds of one calculation, all over one store; undisturbed ones follow until it is complete.

    Parameters
    ----------
    name : str
    rounds : sequence of Round
    faults : dict of int to sequence of str
        What goes wrong inside calculations: by the place of a task in a drawn order.
    sleep_s : tuple of float
        Shortest and longest calculation.
    timeout_s : float
    words : tuple of str
        Further options of ``run``.
    """

    name: str
    rounds: Sequence[Round]
    faults: Sequence[Sequence[str]] = ()
    sleep_s: tuple[float, float] = (0.02, 0.08)
    timeout_s: float = TIMEOUT_S
    words: tuple[str, ...] = ("--retries", "6")

    @property
    def heartbeat_s(self) -> float:
        """Short where a rank falls silent; else no busy machine is to be taken for a dead one."""
        events = [event for each in self.rounds for event in each.events]
        is_silenced = any(e.action == "SIGSTOP" and e.target != "slot" for e in events)
        return HEARTBEAT_S if is_silenced else 10.0

    def rng(self, seed: int, purpose: str = "") -> random.Random:
        """Return the source of all that is random in it."""
        return random.Random(f"{seed}:{self.name}:{purpose}")


PASSING = ("random", "raise", "nan", "shape", "none", "noise", "molecule")
CRASHES = ("crash", "abort", "kill", "exit", "leave")
HANGS = ("stop", "hang", "children", "daemon")
SLOW_S = (0.06, 0.2)
SLOWER_S = (0.2, 0.5)  # a round outlasts the commit interval: what must be in the store is
ANY = None
COMPLETE = frozenset({0})
FAILED = frozenset({1})
# Two blows that meet at one task, from inside and from outside, may use its attempts up.
ENDED = COMPLETE | FAILED
RESUMABLE = frozenset({75})


def scenarios(seed: int = SEED) -> list[Scenario]:
    """Return all scenarios."""
    rng = random.Random(seed)
    return [
        *_files(rng),
        *_inside(rng),
        *_local(rng),
        *_mpi(rng),
        *_ulfm(rng),
    ]


def _some(rng: random.Random, kinds: Sequence[str], n: int) -> list[list[str]]:
    """Return the faults of `n` tasks, every kind about as often."""
    return [[kinds[i % len(kinds)]] for i in rng.sample(range(n), n)]


def _blows(rng: random.Random, n: int, target: str, actions: Sequence[str]) -> list[Event]:
    moments = sorted(rng.sample(range(3, 55), n))
    return [Event(after, rng.choice(actions), target) for after in moments]


def _blow(rng: random.Random, action: str, target: str = "master") -> list[Event]:
    """Return one event, so early that two more rounds find something to do."""
    return [Event(rng.randrange(15, 25), action, target)]


def _early(rng: random.Random, action: str, target: str = "master") -> list[Event]:
    return [Event(rng.randrange(3, 9), action, target)]


def _inside(rng: random.Random) -> Iterator[Scenario]:
    """Faults of calculations and slots: the run itself gets over them."""
    for pool in (LOCAL, MPI, ULFM):
        kind = _name(pool)
        yield Scenario(f"passing-{kind}", [Round(pool)], _some(rng, PASSING, 10))
        blows = _blows(rng, 4, "slot", ("SIGKILL", "SIGSEGV"))
        yield Scenario(f"crashes-{kind}", [Round(pool, blows)], _some(rng, CRASHES, 8))
        hangs = _some(rng, (*HANGS, "litter"), 5)
        stop = _blow(rng, "SIGSTOP", "slot")
        yield Scenario(f"hangs-{kind}", [Round(pool, stop, ENDED)], hangs, timeout_s=3.0)
        mixed = _some(rng, (*PASSING, *CRASHES), 10)
        kills = _blows(rng, 3, "slot", ("SIGKILL",))
        yield Scenario(f"mixture-{kind}", [Round(pool, kills, COMPLETE)], mixed)
    # A task that is hit again and again, by faults that pass.
    often = [["crash", "random", "kill", "exit"], ["random", "abort", "random"]]
    yield Scenario("again-and-again", [Round(LOCAL)], often)
    # Short tasks travel in batches: what is finished must not wait for one that hangs.
    yield Scenario("batches", [Round(LOCAL)], [["hang"], ["stop"]], (0.0005, 0.002), 4.0)
    yield Scenario("spinning", [Round(LOCAL, exits=FAILED)], [["spin"], ["spin"]], timeout_s=2.0)
    for pool in (LOCAL, ULFM):
        memory = ("--retries", "6", "--memory", "1800MB")
        yield Scenario(f"memory-{_name(pool)}", [Round(pool)], [["memory"]] * 2, words=memory)


def _local(rng: random.Random) -> Iterator[Scenario]:
    """The master of a run without MPI, its fork server and everything at once."""
    for letter in "abc":
        targets = ("master", "master", "all")  # three rounds of up to 24 of the 82 tasks
        rounds = [Round(LOCAL, _blow(rng, "SIGKILL", target), ANY) for target in targets]
        yield Scenario(f"master-{letter}", rounds, _some(rng, (*PASSING, *CRASHES), 4), SLOWER_S)
    yield Scenario("server", [Round(LOCAL, _blow(rng, "SIGKILL", "server"))], sleep_s=SLOW_S)
    names = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGUSR2")
    rounds = [Round(LOCAL, _early(rng, name), RESUMABLE) for name in names]
    yield Scenario("signals", rounds, [["random"], ["nan"]], SLOW_S)
    twice = [Event(9, "SIGTERM"), Event(9, "SIGTERM")]
    yield Scenario("twice", [Round(LOCAL, twice, RESUMABLE)], [["hang"]], SLOW_S, 3.0)


def _mpi(rng: random.Random) -> Iterator[Scenario]:
    """MPI without fault tolerance: the job dies, the store does not."""
    for letter, action in zip("ab", ("SIGKILL", "SIGSEGV"), strict=True):
        rounds = [Round(MPI, _blow(rng, action, target), ANY) for target in ("worker", "master")]
        rounds.append(Round(MPI, _blow(rng, "SIGKILL", "all"), ANY))
        yield Scenario(f"ranks-{letter}", rounds, _some(rng, (*PASSING, *CRASHES), 4), SLOWER_S)
    yield Scenario("launcher", [Round(MPI, _blow(rng, "SIGKILL", "launcher"), ANY)], (), SLOWER_S)
    rounds = [
        Round(MPI, _early(rng, name, "launcher"), exits)
        for name, exits in (("SIGUSR1", RESUMABLE), ("SIGTERM", ANY), ("SIGINT", ANY))
    ]
    yield Scenario("signals-mpi", rounds, [["random"], ["nan"]], SLOW_S)
    yield Scenario("silent", [Round(MPI, _blow(rng, "SIGSTOP", "worker"))], (), SLOW_S)
    rounds = [Round(MPI, _blow(rng, "SIGSTOP"), ANY)]
    yield Scenario("silent-master", rounds, (), SLOWER_S)


def _ulfm(rng: random.Random) -> Iterator[Scenario]:
    """MPI that can lose ranks: the run goes on."""
    for letter in "abcd":
        blows = _blows(rng, 2, "worker", ("SIGKILL", "SIGSEGV"))
        faults = _some(rng, (*PASSING, *CRASHES), 4)
        yield Scenario(f"lost-{letter}", [Round(ULFM, blows)], faults, SLOW_S)
    blows = [Event(12, "SIGKILL", "worker")] * 3
    yield Scenario("lost-all", [Round(ULFM, blows)], sleep_s=SLOW_S)
    for letter in "ab":
        blows = _blow(rng, "SIGSTOP", "worker")
        yield Scenario(f"silent-ulfm-{letter}", [Round(ULFM, blows)], [["kill"]], SLOW_S)
    rounds = [Round(ULFM, _blow(rng, action), ANY) for action in ("SIGKILL", "SIGSTOP")]
    rounds.append(Round(ULFM, _blow(rng, "SIGTERM", "launcher"), ANY))
    yield Scenario("heads-ulfm", rounds, _some(rng, PASSING, 3), SLOWER_S)
    for target in ("launcher", "server"):
        blows = _blow(rng, "SIGKILL", target)
        yield Scenario(f"{target}-ulfm", [Round(ULFM, blows, ANY)], sleep_s=SLOWER_S)


def _files(rng: random.Random) -> Iterator[Scenario]:
    """The store: cut, spoilt, locked by the dead, on a disk that is full."""
    # A machine that is gone leaves a lock that nobody keeps alive: that takes a while to see.
    killed = [Event(35, "SIGKILL")]
    rounds = [Round(LOCAL, killed, ANY), Round(damage="foreign-lock"), Round(damage="dead-lock")]
    yield Scenario("locks", rounds, sleep_s=SLOWER_S)
    for letter in "abcd":
        damages = rng.sample(("cut", "cut", "flip", "flip", "zero"), 3)
        # The round before ends early: what is repaired is not all there is to do.
        rounds = [Round(LOCAL, killed, ANY)]
        rounds += [Round(LOCAL, _early(rng, "SIGKILL"), ANY, each) for each in damages]
        yield Scenario(f"damage-{letter}", rounds, [["random"], ["kill"]], SLOW_S)
    full = [Event(15, "disk-full"), Event(30, "disk-free")]
    for pool in (LOCAL, ULFM):
        rounds = [Round(pool, full[:1], RESUMABLE)]
        yield Scenario(f"disk-full-{_name(pool)}", rounds, sleep_s=SLOWER_S)
    rounds = [Round(LOCAL, full, frozenset({0, 75}))]
    yield Scenario("disk-full-a-while", rounds, sleep_s=SLOW_S)
    yield Scenario("unlocked", [Round(LOCAL, [Event(15, "unlock")], RESUMABLE)], sleep_s=SLOW_S)
    gone = [Event(12, "no-scratch"), Event(20, "SIGKILL", "slot"), Event(25, "SIGKILL", "slot")]
    yield Scenario("no-scratch", [Round(LOCAL, gone, frozenset({0, 75}))], sleep_s=SLOW_S)


def _name(pool: Pool) -> str:
    if not pool.n_ranks:
        return "local"
    return "ulfm" if pool.is_tolerant else "mpi"
