"""Directories for temporary files that are removed even where the process that made them was killed.

Each holds a locked file. The kernel releases the lock when its process ends, however that happens, so the next process that
makes such a directory can tell those that nobody uses any more. A lock counts on one machine, and directories may be shared by
several: the file names the machine. Names are drawn at random and directories are for their user alone, so nobody else can
have put something there beforehand.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tradeoff.objectives.device.power_limit import restore_power_limits

_OWNER = ".tradeoff-owner"


class TemporaryFolder:
    """A directory that lasts until it is removed, or until its process has ended and another one is made beside it.

    Args:
        prefix: The beginning of its name.
        parent: The directory to make it in; by default that for temporary files.

    Attributes:
        path: The directory.
    """

    def __init__(self, prefix: str = "tradeoff-", parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_abandoned(prefix, parent)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).absolute()
        self._lock = os.open(self.path / _OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks, whose directories are never taken for abandoned
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # Written once it is locked: a file without a name belongs to a process that is just about to lock it.
            os.write(self._lock, socket.gethostname().encode())

    def remove(self) -> None:
        """Remove the directory, and end the processes whose temporary files are in it."""
        _remove(self.path)
        os.close(self._lock)


@contextlib.contextmanager
def temporary_folder(prefix: str = "tradeoff-", parent: Path | None = None) -> Iterator[Path]:
    """Make a directory for the time of a block."""
    folder = TemporaryFolder(prefix, parent)
    try:
        yield folder.path
    finally:
        folder.remove()


def put_in_place(finished: Path, final: Path, is_whole: Callable[[Path], bool]) -> None:
    """Move a finished directory to its place, where another process may have put an equal one meanwhile.

    Args:
        finished: The directory, in a temporary one on the same disk: a damaged one in its place goes there.
        final: Its place.
        is_whole: Returns True if a directory is there and nothing of it is damaged.

    Raises:
        OSError: It can't be moved.
    """
    if not is_whole(final):
        with contextlib.suppress(FileNotFoundError):
            final.rename(finished.with_name("damaged"))
    try:
        finished.rename(final)
    except OSError:
        if not is_whole(final):
            raise


def end_processes_in(folder: Path) -> None:
    """Kill the processes that were told to keep their temporary files in a directory, whoever their parents are by now."""
    for process in psutil.process_iter(["environ"]):
        where = (process.info["environ"] or {}).get("TMPDIR", "")
        if process.pid != os.getpid() and Path(where).is_relative_to(folder):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()


def _remove_abandoned(prefix: str, parent: Path) -> None:
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        # Another process may remove it at the same time, and another user's can't be removed.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
            stack.callback(os.close, lock)
            if os.read(lock, 256).decode(errors="replace") == socket.gethostname():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    end_processes_in(folder)
    restore_power_limits(folder)
    # What can't be removed now, as on a network's file system while a process still has it open, is left to the system.
    shutil.rmtree(folder, ignore_errors=True)
