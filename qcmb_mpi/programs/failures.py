"""What kind of failure it was, where QCEngine says only ``unknown_error``.

Rules of this file
------------------
1. A phrase of the tables is one that its program prints when it gives up, and never in a run that
   goes well: a wrong diagnosis costs the task its retry.
2. QCEngine's own word is taken wherever it has one.
"""

from __future__ import annotations

import re

from qcmb_mpi.scheduling.policy import ErrorClass, error_class_of

MISSING_PROGRAM = "missing_program"
SCRATCH_FULL = "scratch_full"
CONVERGENCE = "convergence_error"
RESOURCE = "resource_error"

_CLASSES = {
    MISSING_PROGRAM: ErrorClass.MISSING_PROGRAM,
    SCRATCH_FULL: ErrorClass.TRANSIENT,
    CONVERGENCE: ErrorClass.CONVERGENCE,
    RESOURCE: ErrorClass.RESOURCE,
}

# Names are QCEngine's. Where a phrase was read: [s] the program's source, [q] QCEngine's harness
# of it, [o] outputs and error tables that people published.
_NOT_CONVERGED = {
    "pyscf": ("SCF not converged", "CCSD not converged"),  # [s] scf/hf.py, cc/ccsd.py
    "tblite": ("SCF not converged",),  # [s] src/tblite/xtb/singlepoint.f90
    "psi4": ("Could not converge ",),  # [s] psi4/driver/p4util/exceptions.py
    "nwchem": (
        "Calculation failed to converge",  # [q] nwchem/harvester.py
        "This type of error is most commonly associated with calculations not reaching",
        "The computation failed to converge",  # [q] nwchem/errors.py, both
    ),
    "qchem": ("SCF failed to converge",),  # [o] gen_scfman_exception
    "gamess": ("SCF IS UNCONVERGED, TOO MANY ITERATIONS",),  # [o]
    "molpro": ("No convergence",),  # [o]
    "turbomole": ("dscf did not converge", "ridft did not converge"),  # [o]
    "mopac": ("UNABLE TO ACHIEVE SELF-CONSISTENCE",),  # [s] iter.F90
    "xtb": ("Self consistent charge iterator did not converge",),  # [s] src/scf_module.f90
    "orca": ("SCF NOT CONVERGED AFTER", "the SCF has not converged", "IS NOT CONVERGED!"),  # [o]
}
_OUT_OF_MEMORY = {
    "psi4": ("Not enough memory", "not enough memory"),  # [o]
    "nwchem": (
        "insufficient memory",  # [o] schwarz_init, fock_rep_txs
        "MA_init failed",  # [s] Global Arrays
        "increase memory in input line",  # [o] ptsalloc
    ),
    "cfour": ("xalloc(): memory allocation failed",),  # [q] cfour/runner.py
    "gamess": ("MEMORY REQUEST EXCEEDS AVAILABLE MEMORY",),  # [s] unport.src; [q] gamess/runner.py
    "molpro": ("insufficient memory available - require",),  # [s] util/corlsi.f
    "orca": ("Please increase MaxCore", "OUT OF MEMORY ERROR"),  # [o]
}
# What the C library, C++, Fortran, Python and the shell say, whatever the program.
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]")
_MEMORY = re.compile(
    r"MemoryError\b|std::bad_alloc|Cannot allocate memory|\[Errno 12\]|insufficient virtual memory"
)
_ABSENT = re.compile(
    r"registered with QCEngine, but cannot be found|cannot open shared object file|"
    r": command not found"
)
_NO_MODULE = re.compile(r"ModuleNotFoundError\b")
_NOT_STARTED = re.compile(r"(?:FileNotFound|Permission|NotADirectory|OS)Error\b")
_STARTING = "in _execute_child"  # the frame of subprocess that starts a program
_OTHER_VERSION = re.compile(r"requires? .*version|too old|prior to v|version '.*' not understood")
# Of a harness of the user's own nothing is known; a short message is an error, not an output.
_SAYS_SO = re.compile(
    r"\b(?:SCF|SCC|self.consistent\w*|CC|CCSD|iterations?|equations)\b.{0,40}"
    r"(?:\bnot|n't|\bfail\w*(?: to)?|\bun|\bnon)[ -]?(?:yet )?converge",
    re.I | re.S,
)
_MESSAGE_LENGTH = 500
_INPUT_FAULTS = {
    "nwchem": ("bas_tag_lib: failed opening basis file",),  # [o] no such basis set
}


def diagnose(program: str, error_type: str, message: str, output: str = "") -> str:
    """Name the error.

    Parameters
    ----------
    program : str
        QCEngine's name of the program.
    error_type : str
        What QCEngine called the error.
    message : str
        What the harness said; of a Python error the error alone, without its traceback.
    output : str
        What the program wrote, and the traceback.

    Returns
    -------
    str
        `error_type`, or one of this module's names where the texts tell more.
    """
    known = error_class_of(error_type.replace(" ", "_"))  # dftd4 and s-dftd3 say "input error"
    text = f"{message}\n{output}"
    if known in (ErrorClass.INPUT, ErrorClass.CONVERGENCE):
        return error_type.replace(" ", "_")
    if _FULL.search(text):
        return SCRATCH_FULL
    if known is ErrorClass.RESOURCE:
        return _which_resource(text, error_type)
    if known is ErrorClass.UNKNOWN:
        return _from_tables(program.lower(), message, text) or error_type
    return error_type


def class_of(error_type: str) -> ErrorClass:
    """Classify a name that :func:`diagnose` gave."""
    return _CLASSES.get(error_type) or error_class_of(error_type)


def _which_resource(text: str, error_type: str) -> str:
    """QCEngine calls everything a resource that another node may have."""
    if "scratch directory" in text:
        return SCRATCH_FULL
    is_absent = _ABSENT.search(text) or _OTHER_VERSION.search(text)
    return MISSING_PROGRAM if is_absent else error_type


def _from_tables(program: str, message: str, text: str) -> str:
    if any(phrase in text for phrase in _INPUT_FAULTS.get(program, ())):
        return "input_error"
    if any(phrase in text for phrase in _NOT_CONVERGED.get(program, ())):
        return CONVERGENCE
    if any(phrase in text for phrase in _OUT_OF_MEMORY.get(program, ())) or _MEMORY.search(text):
        return RESOURCE
    is_not_started = _STARTING in text and _NOT_STARTED.match(message)
    if is_not_started or _NO_MODULE.match(message) or _ABSENT.search(text):
        return MISSING_PROGRAM
    return CONVERGENCE if _SAYS_SO.search(message[:_MESSAGE_LENGTH]) else ""
