"""How a study's parent and its workers speak: lines of JSON over a socket pair.

The storage's URL, with its password, goes this way too, and so stands in no list of processes.
"""

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any


class Channel:
    """One end of a conversation.

    Args:
        end: A connected stream socket; the channel closes it.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unread = b""

    def fileno(self) -> int:
        """For `selectors`."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; one to an end that is gone is lost, as its answer would be."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Waits for something to arrive; returns the messages that are complete, or None when the other end is gone."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Ends the conversation."""
        self._socket.close()


class Inbox:
    """Receives in a thread of its own, so that a process that works hears when the other end is gone.

    Args:
        channel: Where messages arrive.
        on_gone: Called, in that thread, when the other end is gone.
    """

    def __init__(self, channel: Channel, on_gone: Callable[[], None]) -> None:
        self._channel = channel
        self._on_gone = on_gone
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Waits for the next message."""
        return self._messages.get()

    def _listen(self) -> None:
        while (messages := self._channel.receive()) is not None:
            for message in messages:
                self._messages.put(message)
        self._on_gone()
