"""The messages that a trial's process sends to its parent, and the channel that carries these and others.

`multiprocessing` frames the messages, and only its bytes are used: its `send` and `recv` would pickle, so that a process with
code of the user's in it could make its parent run anything. The payload is JSON, validated on arrival.
"""

import json
import socket
import struct
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Discriminator, TypeAdapter

from tradeoff.objectives.measurements.outcome import Measurements, Outcome, Stage

Message = TypeVar("Message")
# How long the rest of a message may take to arrive once its beginning has: its sender has been stopped, and may stay so.
REST_LIMIT_S = 10


class Channel(Generic[Message]):
    """One end of a conversation between two processes.

    Args:
        end: A connected stream socket, which the channel takes over.
        received: Validates what arrives.
    """

    def __init__(self, end: socket.socket, received: TypeAdapter[Message]) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", REST_LIMIT_S, 0))
        self._connection = Connection(end.detach())
        self._received = received

    def fileno(self) -> int:
        """Return the descriptor, for `multiprocessing.connection.wait` and `selectors`."""
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        """Send a dataclass, or plain data.

        Raises:
            ConnectionError: The other end is gone.
        """
        plain = message if isinstance(message, dict) else asdict(message)
        self._connection.send_bytes(json.dumps(plain).encode())

    def send_function(self, packed: bytes) -> None:
        """Send a function of this program's own, of `tradeoff.objectives.job.sent_function`, to a process that it has started.

        Raises:
            ConnectionError: The other end is gone.
        """
        self._connection.send_bytes(packed)

    def receive_function(self) -> bytes:
        """Wait for the function that the parent sends after it has said so.

        Raises:
            EOFError: The other end is gone.
        """
        return self._connection.recv_bytes()

    def poll(self, timeout_s: float | None = 0.0) -> bool:
        """Wait until a message, or the end of the conversation, can be received; return False if `timeout_s` passed before."""
        return self._connection.poll(timeout_s)

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            EOFError: The other end is gone, or has stopped in the middle of a message.
        """
        self.poll(None)
        try:
            plain = json.loads(self._connection.recv_bytes())
        except (OSError, ValueError) as error:
            raise EOFError from error
        return self._received.validate_python(plain)

    def close(self) -> None:
        """End the conversation."""
        self._connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A stage has begun, or `step` of its `total` steps is done."""

    stage: Stage
    step: int | None = None
    total: int | None = None
    kind: Literal["progress"] = "progress"

    def event(self) -> dict[str, Any]:
        """Return the event for a display: `stage`, and within a stage `step` and `total`."""
        return {"stage": self.stage} | ({} if self.step is None else {"step": self.step, "total": self.total})


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything measured so far, so that it is kept if the process ends without an outcome."""

    measurements: Measurements
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A trial's outcome.

    Attributes:
        outcome: The outcome.
        at_s: When it was sent, by `time.monotonic`, which the processes of a machine share.
    """

    outcome: Outcome
    at_s: float
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to a task that is not a trial."""

    answer: dict[str, Any]
    kind: Literal["answer"] = "answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A task that is not a trial can't be done, in a sentence."""

    error: str
    kind: Literal["refusal"] = "refusal"


Reply = Finished | Answer | Refusal
FromTrial = Annotated[Progress | Measured | Reply, Discriminator("kind")]
FROM_TRIAL: TypeAdapter[Progress | Measured | Reply] = TypeAdapter(FromTrial)
# A request, of which each task reads its own keys.
REQUEST: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
