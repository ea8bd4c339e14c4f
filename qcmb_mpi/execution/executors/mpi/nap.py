"""How long a rank sleeps between two looks for messages.

Rules of this file
------------------
1. Short while messages come, so that they are answered at once; long when nothing happens.
"""

from __future__ import annotations

_SHORTEST_S = 0.0002
_LONGEST_S = 0.01


class Nap:
    """An interval that doubles while nothing happens."""

    def __init__(self) -> None:
        self.interval_s = _SHORTEST_S

    def reset(self) -> None:
        """Start again with the shortest."""
        self.interval_s = _SHORTEST_S

    def lengthen(self) -> None:
        """Sleep longer, up to a limit."""
        self.interval_s = min(2 * self.interval_s, _LONGEST_S)
