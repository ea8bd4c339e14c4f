"""The exception family: whose fault it is, and what to do next.

Rules of this file
------------------
1. Every exception pickles, because it may cross a process boundary.
2. ``str(error)`` is one line that a user can act on; ``exit_code`` is the process's.
3. A failed *task* is a value (:class:`~qcmb_mpi.execution.outcome.Outcome`), not an exception.
"""

from __future__ import annotations

from typing import Any


class QcmbError(Exception):
    """Base of all errors that qcmb_mpi raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    """

    exit_code = 70
    is_local = False  # True where other ranks need not have the same trouble

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[QcmbError], args: tuple[Any, ...], state: dict[str, Any]) -> QcmbError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(QcmbError):
    """The input, an option or a name in them is not acceptable; nothing was run.

    Parameters
    ----------
    field : str
        The field or option, as the user writes it (``specification.keywords.max_nbody``).
    message : str
        What is wrong.
    value : object, optional
        The offending value; shown shortened.
    accepted : str, optional
        What would be accepted.
    """

    exit_code = 2

    def __init__(
        self, field: str, message: str, *, value: object = None, accepted: str | None = None
    ) -> None:
        self.field = field
        text = f"{field}: {message}"
        if value is not None:
            text += f" (got {_shorten(value)})"
        if accepted is not None:
            text += f"; accepted: {accepted}"
        super().__init__(" ".join(text.split()))


class TopologyError(QcmbError):
    """Ranks, launcher, cores or programs are not as the run needs them; nothing was run."""

    exit_code = 2


class StoreError(QcmbError):
    """The result store cannot be used; it was left as it is."""

    exit_code = 2


class TransportError(QcmbError):
    """A message could not be delivered, or a peer has gone."""


class IllegalEvent(QcmbError):
    """The scheduler was given an event that its state does not allow: a bug.

    Parameters
    ----------
    message : str
        The rule that was broken.
    story : tuple
        What is known of the task or agent.
    """

    def __init__(self, message: str, *, story: tuple[object, ...] = ()) -> None:
        self.story = story
        super().__init__(message)


class TasksFailed(QcmbError):
    """Some tasks failed for good; all others are done and in the store.

    Parameters
    ----------
    message : str
        How many, and the first of them.
    failed : tuple of dict
        ``label``, ``error_type``, ``message`` and ``attempts`` of each.
    """

    exit_code = 1

    def __init__(self, message: str, *, failed: tuple[dict[str, Any], ...] = ()) -> None:
        self.failed = failed
        super().__init__(message)


class Interrupted(QcmbError):
    """Stopped early by a deadline or a signal; the same command resumes."""

    exit_code = 75


def _shorten(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
