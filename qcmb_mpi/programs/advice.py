"""What a program means by its error, in one line, and what to do about it.

Rules of this file
------------------
1. A message is shortened to the line that says what is wrong; the rest stays in the output's tail.
2. A hint names a keyword or a command that was tried.
"""

from __future__ import annotations

import re

# The line that tells, in the order in which they are looked for.
_SAID = {
    "nwchem": (
        re.compile(r"ARMCI Error: \d+:\s*([^\n]*\w)"),
        re.compile(r"^ -{20,}\n \s*(\S[^\n]*\w)[^\n]*\n -{20,}", re.M),
    ),
    "psi4": (
        re.compile(r"Fatal Error: ([^\n\\]+)"),
        re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|NotFound|Exception): *(\S.*)", re.M | re.S),
    ),
    "mopac": (
        re.compile(r"^ *\* *Errors? detected: *\n *\* *([^\n]*\w)", re.M | re.I),
        re.compile(r"^ *(?:ERROR[^\n:]*: *|)(UNABLE TO [^\n]*\w)", re.M),
    ),
}
# QCEngine's harnesses of NWChem, CFOUR and GAMESS give input, output and errors in one message.
_STAMP = re.compile(r"\nSTDERR:\n(.*?)(?:\nTRACEBACK:|\Z)", re.S)
_INSTALL = {
    "pyscf": "pip install pyscf",
    "tblite": "pip install tblite",
    "dftd4": "pip install dftd4",
    "s-dftd3": "pip install dftd3",
    "xtb": "pip install xtb (QCEngine needs the Python module; of the executable "
    "the program is called xtb-cli)",
    "xtb-cli": "apt install xtb, or conda install -c conda-forge xtb",
    "nwchem": "apt install nwchem, or conda install -c conda-forge nwchem; and pip install "
    "networkx",
    "mopac": "apt install mopac, or conda install -c conda-forge mopac",
    "psi4": "conda install -c conda-forge psi4, or apt install psi4",
}
_MORE_ITERATIONS = {
    "psi4": "raise the keyword maxiter",
    "nwchem": "raise the keyword scf__maxiter, dft__iterations or ccsd__maxiter",
    "mopac": "raise the keyword ITER",
    **dict.fromkeys(("xtb", "xtb-cli"), "raise the keyword max_iterations"),
}
_LENGTH = 300
_SINGLE_ATOM = "Could not correctly parse the MOPAC output file"


def install_hint(program: str) -> str:
    """Return the command that installs a program, or nothing."""
    return _INSTALL.get(program.lower(), "")


def in_a_line(program: str, message: str, output: str) -> str:
    """Return what a program said, without what surrounds it.

    Parameters
    ----------
    program : str
        QCEngine's name, lower case.
    message, output : str
        What the harness said, and what the program wrote.
    """
    if "\n" in message.strip():
        for pattern in _SAID.get(program, ()):
            found = pattern.search(message) or pattern.search(output)
            if found:
                return " ".join(found[1].split())[:_LENGTH].rstrip(":")
        stamped = _STAMP.search(message)
        if stamped and stamped[1].strip(" -\n"):
            return " ".join(stamped[1].strip(" -\n").split())[:_LENGTH]
        if len(message) <= _LENGTH:
            return " ".join(message.split())
    return message


def hint(program: str, error_type: str, message: str) -> str:
    """Return what to do, or nothing where nothing more is known than for all programs."""
    if error_type == "convergence_error":
        more = _MORE_ITERATIONS.get(program, "")
        return f"{more}, or run with --remedies" if more else ""
    if error_type == "missing_program":
        return install_hint(program)
    if program == "mopac" and _SINGLE_ATOM in message:
        return "QCEngine cannot read MOPAC's output of a single atom: join it to a fragment"
    return ""
