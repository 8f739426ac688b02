"""The warm server as its parent sees it: started, asked for processes, and started again if it was killed."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tradeoff.objectives.device.power_limit import restore_power_limits
from tradeoff.objectives.device.temporary_folder import TemporaryFolder, end_processes_in
from tradeoff.objectives.isolation.endings import ProcessResult, kill
from tradeoff.objectives.isolation.following import Followed
from tradeoff.objectives.isolation.warm_server import FROM_SERVER, Exited, Ready, Started, server_environment
from tradeoff.objectives.trial.messages import FROM_TRIAL, Channel

_START_LIMIT_S = 300
# A server that is killed, even while it imports, is started again; one that is killed this often in a row is not.
_MAX_STARTS = 3
# How long a process may take to end once it has replied, and once it was killed.
_END_LIMIT_S = 5
_KILL_LIMIT_S = 30


class WorkerError(RuntimeError):
    """A process ended without a reply to a request that is not a trial."""


class ServerProcess:
    """A warm server, started on first use and again if it dies, with a directory for everything temporary.

    Args:
        environment: Variables for the server and its trials, over this process's own.
        modules: Further modules to import before forking.
    """

    def __init__(self, environment: Mapping[str, str], modules: tuple[str, ...]) -> None:
        self._environment = dict(environment)
        self._modules = modules
        # The server, its trials and what these start are told to keep temporary files in it.
        self._folder: TemporaryFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Numbers go to the server with file descriptors, over the socket itself; its messages arrive framed.
        self._socket: socket.socket | None = None
        self._channel: Channel[Ready | Started | Exited] | None = None
        self._ready = False
        self._next_number = 0
        self._exits: dict[int, Exited] = {}

    @property
    def pid(self) -> int | None:
        """The server's process; None if none was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server without waiting for it, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        self._folder = self._folder or TemporaryFolder()
        temporary = {"TMPDIR": str(self._folder.path)}
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the working directory must not shadow the libraries (a user's evaluate.py, a directory named datasets).
                [sys.executable, "-P", "-m", "tradeoff.objectives.isolation.warm_server", str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=server_environment({**os.environ, **self._environment, **temporary}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the trial in order
            )
        self._socket, self._channel, self._ready = ours, Channel(ours.dup(), FROM_SERVER), False

    def close(self) -> None:
        """End the server and whatever it runs, and remove its temporary files."""
        self._end()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[str]:
        """Make a directory for a trial, which must have ended at the end of the block; the server has been started."""
        assert self._folder is not None
        with tempfile.TemporaryDirectory(prefix="trial-", dir=self._folder.path, ignore_cleanup_errors=True) as folder:
            try:
                yield folder
            finally:
                restore_power_limits(Path(folder))

    def fork(
        self,
        result: ProcessResult,
        log: int,
        listener: socket.socket | None = None,
        *,
        is_first: bool = True,
        is_background: bool = False,
    ) -> Followed:
        """Start a process.

        Args:
            result: Where it is to be described.
            log: The descriptor to which it prints.
            listener: A socket for it, or None.
            is_first: Whether it may be forked by another server, if this one was killed.
            is_background: Whether it runs beside the trials.

        Raises:
            ConnectionError: The server died, and so did those that were started in its place.
            WorkerError: No server can be started.
        """
        for _ in range(_MAX_STARTS - 1 if is_first else 0):
            self.start()
            try:
                return self._fork(result, log, listener, is_background)
            except ConnectionError:
                # It died since the last request. The system may call a killed process running until its last thread is gone.
                self._end()
        if is_first:
            self.start()
        return self._fork(result, log, listener, is_background)

    def wait(self, process: Followed) -> None:
        """Wait until the server has reaped a process, which has ended, ends by itself or was killed."""
        if not self._hears_of(process, _END_LIMIT_S):
            kill(process.pid)
        if self._hears_of(process, _KILL_LIMIT_S):
            exited = self._exits.pop(process.identifier)
            process.result.status, process.result.max_rss_mib = exited.status, exited.max_rss_mib
        else:
            # The server itself is gone, and its trials with it; the next request starts another.
            self._end()

    def fileno(self) -> int:
        """Return the descriptor on which the end of processes is reported."""
        assert self._channel is not None
        return self._channel.fileno()

    def has_reaped(self, process: Followed) -> bool:
        """Receive the reports that have arrived, and return True if a process has ended, as it has if the server is gone."""
        assert self._channel is not None
        while self._channel.poll():
            if self._receive(0) is None:
                return True
        return process.identifier in self._exits

    def _end(self) -> None:
        if self._socket is not None and self._channel is not None:
            self._socket.close()
            self._channel.close()
            self._socket = self._channel = None
        if self._process is None or self._folder is None:
            return
        if not self._ready:
            self._process.kill()  # it still imports, and would not see the closed socket for seconds
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        # If the server was killed, what its trials had started may be left.
        end_processes_in(self._folder.path)

    def _fork(self, result: ProcessResult, log: int, listener: socket.socket | None, is_background: bool) -> Followed:
        while not self._ready:
            message = self._receive(_START_LIMIT_S)
            if message is None:
                raise self._why_not_ready()
            self._ready = isinstance(message, Ready)
        assert self._socket is not None
        self._next_number += 1
        # Negative beside the trials: the server has to know when none of them is left.
        identifier = -self._next_number if is_background else self._next_number
        ours, theirs = socket.socketpair()
        channel = Channel(ours, FROM_TRIAL)
        with theirs:
            descriptors = [theirs.fileno(), log, *([] if listener is None else [listener.fileno()])]
            socket.send_fds(self._socket, [str(identifier).encode()], descriptors)
        while (message := self._receive(_START_LIMIT_S)) is not None:
            if isinstance(message, Started) and message.identifier == identifier:
                return Followed(channel=channel, result=result, identifier=identifier, pid=message.pid)
        raise ConnectionResetError("the server ended before the process started")

    def _why_not_ready(self) -> Exception:
        """Return the error of a server that ended, or was silent for minutes, before it had imported everything."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(timeout=5) < 0:
                return ConnectionResetError("the server was killed while it was importing")
        return WorkerError("the process that imports torch and transformers ended or hung; its error is above")

    def _hears_of(self, process: Followed, limit_s: float) -> bool:
        end_s = time.perf_counter() + limit_s
        while process.identifier not in self._exits and (left_s := end_s - time.perf_counter()) > 0:
            if self._receive(left_s) is None:
                break
        return process.identifier in self._exits

    def _receive(self, timeout_s: float) -> Ready | Started | Exited | None:
        """Return the server's next message, or None if it is gone, or silent for this long."""
        if self._channel is None or not self._channel.poll(timeout_s):
            return None
        try:
            message = self._channel.receive()
        except EOFError:
            return None
        if isinstance(message, Exited):  # of a rank, perhaps while another one is being started
            self._exits[message.identifier] = message
        return message
