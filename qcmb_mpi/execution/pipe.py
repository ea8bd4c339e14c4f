"""One end of the pipe between an agent and a slot: whole messages, in pieces if need be.

Rules of this file
------------------
1. Whether it waits is up to the socket: an agent's never does, a slot's does.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from typing import Any

_LENGTH = struct.Struct("!Q")
_CHUNK_BYTES = 2**16


class Pipe:
    """Sends and receives pickled objects.

    Parameters
    ----------
    end : socket.socket
        Connected stream; closed with the pipe.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._waits = end.getblocking()
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to :meth:`push` when the pipe takes more."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Send a message, or what the pipe takes of it now; raise OSError if nobody hears it."""
        data = pickle.dumps(message, protocol=5)
        self._unsent.append(memoryview(_LENGTH.pack(len(data)) + data))
        self.push()

    def push(self) -> None:
        """Send more of what could not be sent yet; raise OSError if nobody hears it."""
        try:
            while self._unsent:
                rest = self._unsent[0][self._socket.send(self._unsent[0]) :]
                if rest:
                    self._unsent[0] = rest
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass

    def receive(self, *, waits: bool = True) -> list[Any]:
        """Return the messages that are there as a whole; raise EOFError if none will come.

        Parameters
        ----------
        waits : bool
            Whether to wait for something, if it is a pipe that does.
        """
        has_ended = self._read(waits=waits and self._waits)
        messages, start = [], 0
        while len(self._received) - start >= _LENGTH.size:
            end = start + _LENGTH.size + _LENGTH.unpack_from(self._received, start)[0]
            if end > len(self._received):
                break
            messages.append(pickle.loads(self._received[start + _LENGTH.size : end]))
            start = end
        del self._received[:start]
        if has_ended and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        """Close the socket; what was not sent is dropped."""
        self._unsent.clear()
        self._socket.close()

    def _read(self, *, waits: bool) -> bool:
        """Take in what is there; return whether it is the end."""
        flags = 0 if waits else socket.MSG_DONTWAIT
        while True:
            try:
                chunk = self._socket.recv(_CHUNK_BYTES, flags)
            except BlockingIOError:
                return False
            except OSError:
                return True
            self._received += chunk
            if len(chunk) < _CHUNK_BYTES or waits:
                return not chunk
