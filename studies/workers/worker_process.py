"""The process of one of several workers: `python -m tradeoff.studies.workers.worker_process FD`, started by `Fleet`.

It speaks over that socket in lines of JSON (`tradeoff.studies.workers.channel`):

    parent -> worker   {"open": {...}}     the study file, and the prepared data where another worker has prepared it
    worker -> parent   {"ready": {...}}    its device and the data
    parent -> worker   {"search": {...}}   the storage, and the time that is left
    worker -> parent   {"message": "..."}, {"started": 7, ...}, {"progress": {...}}, {"ended": 7, ...}
    worker -> parent   {"end": {...}}      why it ends: nothing is left to do, or what went wrong

SIGINT ends it in order, a second one at once, as with `tradeoff run` itself. When the parent is gone it ends in order too.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.workers.channel import Channel, Inbox

# Steps are reported no more often than a person can read.
PROGRESS_INTERVAL_S = 0.1


@dataclass
class ChannelDisplay:
    """A display that tells the parent."""

    channel: Channel
    _quiet_until_s: float = field(default=0.0, init=False)

    def message(self, line: str) -> None:
        """Passes the line on."""
        self.channel.send({"message": line})

    def show(self, what: object) -> None:
        """A worker shows no tables."""

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: Any) -> Iterator[None]:
        """The parent shows the study."""
        yield

    def trial_started(self, number: int, parameters: Any, *, worker: int = 0) -> None:
        """Passes it on."""
        self.channel.send({"started": number, "parameters": parameters.as_dict()})

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Passes on each stage, and now and then a step."""
        now_s = time.monotonic()
        if "step" not in event or now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + PROGRESS_INTERVAL_S
            self.channel.send({"progress": dict(event)})

    def trial_ended(self, record: Any, *, worker: int = 0) -> None:
        """The annotator tells it, with the log."""

    def worker_ended(self, worker: int) -> None:
        """There is this worker alone."""

    def trials(self, records: Sequence[Any]) -> None:
        """The parent reads them from the storage."""


@dataclass
class ChannelAnnotator:
    """Has the parent write a trial's note and files."""

    channel: Channel

    def trial_ended(self, record: Any, *, log: str | None = None) -> None:
        """Passes on the number, and the log."""
        self.channel.send({"ended": record.number, "log": log or ""})


def main(descriptor: int, *, processors: Sequence[int]) -> None:
    """Runs the worker's part of a study over the socket `descriptor`."""
    if processors:
        os.sched_setaffinity(0, processors)
    # Trials inherit nothing of this conversation.
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    interrupts = Interrupts()
    with interrupts.handled(), TrialServer() as server:
        server.start()  # it imports torch while this process imports the rest
        inbox = Inbox(channel, on_gone=lambda: os.kill(os.getpid(), signal.SIGTERM))
        end = _work(inbox, channel, server, interrupts)
    channel.send({"end": end})
    channel.close()


def _work(inbox: Inbox, channel: Channel, server: TrialServer, interrupts: Interrupts) -> dict[str, Any]:
    """Prepares and searches; returns how it ended."""
    from tradeoff.studies.config.study import StudyConfig
    from tradeoff.studies.errors import StudyFailed, TradeoffError
    from tradeoff.studies.execution.loop import search
    from tradeoff.studies.execution.preparation import OtherDeviceError, ProcessLostError, prepare
    from tradeoff.studies.storage.opening import load_study, open_storage
    from tradeoff.studies.storage.retry_policy import Patience

    display = ChannelDisplay(channel)
    try:
        with interrupts.waiting():
            opened = inbox.next()["open"]
        config = StudyConfig.model_validate(opened["config"])
        cache = None if opened["cache"] is None else Path(opened["cache"])
        ready = prepare(
            config,
            server,
            interrupts,
            display=display,
            cache=cache,
            measured_on=opened["measured_on"],
            plans=opened["data"] is None,
            data=opened["data"],
        )
        channel.send({"ready": {"device": dict(ready.device), "data": dict(ready.data)}})
        with interrupts.waiting():
            asked = inbox.next()["search"]
        deadline_s = None if asked["timeout_s"] is None else time.monotonic() + asked["timeout_s"]
        # The parent has it open: one that does not answer is away for a while, and not mistyped.
        patience = Patience(say=display.message, stop=lambda: interrupts.requested)
        storage = open_storage(asked["storage"], patience=patience)
        study = load_study(config.name, storage)
        annotator = ChannelAnnotator(channel)
        search(study, ready, display=display, interrupts=interrupts, annotator=annotator, deadline_s=deadline_s)
    except KeyboardInterrupt:
        return {"interrupted": True}
    except OtherDeviceError as error:
        return {"other_device": str(error)}
    except ProcessLostError as error:
        # Nothing is wrong with the study: the parent takes it for a death, and starts this worker again.
        sys.exit(str(error))
    except TradeoffError as error:
        return {"refused": str(error)}
    except StudyFailed as error:
        return {"failed": str(error)}
    return {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("descriptor", type=int)
    parser.add_argument("--index", type=int, default=0)  # for a person who looks at the list of processes
    parser.add_argument("--processors", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    main(arguments.descriptor, processors=arguments.processors)
