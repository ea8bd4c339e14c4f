"""The doctor's findings about a job as a whole: where its hosts differ.

Rules of this file
------------------
1. Judges what was brought; only :func:`hosts_findings` asks MPI, in a thread that may hang.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcmb_mpi.doctor_probes import Finding, by
from qcmb_mpi.errors import QcmbError

_TOLERATED_S = 1.0
# First ranks of hosts look before they speak, which may take 200 s: programs 90 s, mpiexec 20 s,
# MPI twice 45 s.
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a host.

    Parameters
    ----------
    name : str
    findings : sequence of Finding
        Of its first rank.
    ahead_s : float, optional
        Seconds that its clock shows more than the first host's.
    doubt_s : float, optional
        How wrong that may be.
    """

    name: str
    findings: Sequence[Finding]
    ahead_s: float = 0.0
    doubt_s: float = 0.0


def hosts_findings(
    host: str, findings: Sequence[Finding], environ: Mapping[str, str], *, is_leader: bool
) -> tuple[list[Finding], bool]:
    """Compare the hosts of a job; every rank calls this.

    Parameters
    ----------
    host : str
        This one's name.
    findings : sequence of Finding
        What is known of it.
    environ : Mapping of str to str
        This process's.
    is_leader : bool
        Whether this is the first rank of its host, which speaks for it.

    Returns
    -------
    tuple of list of Finding and bool
        The findings, for rank 0 to tell, and whether MPI has answered: if it has not, the process
        has to be left by ``os._exit``.
    """
    answer: list[Finding] = []

    def ask() -> None:
        answer.extend(_ask(Host(host, findings) if is_leader else None, environ))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    if asking.is_alive():
        found = f"MPI does not answer within {_PATIENCE_S:g} s"
        advice = "mpiexec -n 2 hostname must work; name the network: OMPI_MCA_btl_tcp_if_include"
        return [Finding("hosts", "problem", found, advice)], False
    return answer, True


def _ask(host: Host | None, environ: Mapping[str, str]) -> list[Finding]:
    from qcmb_mpi.execution.executors.mpi.survey import survey

    try:
        reports = survey(host, environ)
    except QcmbError as error:
        words, _, advice = str(error).rpartition("; ")
        return [Finding("hosts", "problem", words or advice, advice)]
    except Exception as error:
        found = f"MPI fails: {type(error).__name__}: {error}"
        return [Finding("hosts", "problem", found, "mpiexec and mpi4py must be of one MPI")]
    hosts = [Host(r.said.name, r.said.findings, r.ahead_s, r.doubt_s) for r in reports]
    return [differences(hosts), clocks(hosts)] if hosts else []


def differences(hosts: Sequence[Host]) -> Finding:
    """Say which Python, packages and programs are not the same on all hosts.

    Parameters
    ----------
    hosts : sequence of Host
        At least one.
    """
    here = [_versions(host) for host in hosts]
    names = sorted(set().union(*here))
    lacks = [
        f"{host.name} lacks {', '.join(missing)}"
        for host, versions in zip(hosts, here, strict=True)
        if (missing := [name for name in names if name not in versions])
    ]
    found = lacks + [told for name in names if (told := _versions_told(name, hosts, here))]
    return Finding(
        "hosts",
        *by(
            not found,
            "warning",
            "; ".join(found) or f"{len(hosts)} with the same Python, packages and programs",
            "install the same on every host, or start jobs where PATH and modules are the same; a "
            "task whose program is missing is run on another host",
        ),
    )


def _versions(host: Host) -> dict[str, str]:
    """Return the version of each package and program of a host; empty if it is not known."""
    return {name: each for finding in host.findings for name, each in finding.versions.items()}


def _versions_told(name: str, hosts: Sequence[Host], here: Sequence[Mapping[str, str]]) -> str:
    known = [(host.name, versions.get(name)) for host, versions in zip(hosts, here, strict=True)]
    if len({version for _, version in known if version}) < 2:
        return ""
    return f"{name} is " + ", ".join(f"{version} on {host}" for host, version in known if version)


def clocks(hosts: Sequence[Host]) -> Finding:
    """Say which clocks differ from the first host's by more than can be a slow message.

    Parameters
    ----------
    hosts : sequence of Host
        At least one, the first one first.
    """
    wrong = [host for host in hosts if abs(host.ahead_s) - host.doubt_s > _TOLERATED_S]
    if not wrong:
        return Finding("clocks", "ok", f"those of {len(hosts)} hosts agree to {_TOLERATED_S:g} s")
    told = (
        f"{host.name} is {abs(host.ahead_s):.0f} s {'ahead of' if host.ahead_s > 0 else 'behind'}"
        for host in wrong
    )
    return Finding(
        "clocks",
        "warning",
        f"{' and '.join(told)} {hosts[0].name}",
        "have them set (NTP, chrony): results are not touched, but times in records and of files, "
        "and so time limits that a host reads for itself, are wrong",
    )
