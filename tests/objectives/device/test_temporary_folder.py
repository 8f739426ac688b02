"""Temporary directories outlive neither their process nor its kill, and nobody else's are touched."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import is_alive, poll

from tradeoff.objectives.device.temporary_folder import TemporaryFolder, temporary_folder

# Makes a directory, starts a process in a session of its own whose temporary files are there, and waits.
HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from tradeoff.objectives.device.temporary_folder import TemporaryFolder

folder = TemporaryFolder("made-", Path(sys.argv[1]))
environment = {**os.environ, "TMPDIR": str(folder.path / "trial-1")}
left = subprocess.Popen(["sleep", "600"], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
print(folder.path, left.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    path, pid = process.stdout.readline().split()
    yield process, Path(path), int(pid)
    process.kill()
    process.communicate()
    if is_alive(int(pid)):
        os.kill(int(pid), signal.SIGKILL)


def test_a_directory_is_for_its_user_alone_and_ends_with_its_block(tmp_path: Path) -> None:
    with temporary_folder("made-", tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.parent == tmp_path
        (path / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_living_process_stays(tmp_path: Path, holder: tuple[subprocess.Popen[str], Path, int]) -> None:
    _, path, pid = holder
    with temporary_folder("made-", tmp_path):
        assert path.is_dir()
        assert is_alive(pid)


def test_the_directory_and_the_processes_of_a_killed_process_end_when_the_next_one_is_made(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], Path, int]
) -> None:
    process, _, pid = holder
    process.kill()
    process.wait()
    with temporary_folder("made-", tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
    poll(lambda: not is_alive(pid), "the end of what was left")


def test_the_directory_of_a_killed_process_on_another_machine_stays(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], Path, int]
) -> None:
    process, path, _ = holder
    process.kill()
    process.wait()
    (path / ".tradeoff-owner").write_text(f"not-{socket.gethostname()}")
    with temporary_folder("made-", tmp_path):
        assert path.is_dir()


def test_what_others_have_made_under_such_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / "made-by-hand").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "made-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "made-file").touch()
    (tmp_path / "made-empty").mkdir()
    (tmp_path / "made-empty" / ".tradeoff-owner").touch()  # of a process that is about to lock it
    with temporary_folder("made-", tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"made-by-hand", "elsewhere", "made-link", "made-file", "made-empty"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_of_another_user_stays(tmp_path: Path, holder: tuple[subprocess.Popen[str], Path, int]) -> None:
    process, path, _ = holder
    process.kill()
    process.wait()
    os.chown(path, 12345, 12345)
    with temporary_folder("made-", tmp_path):
        assert path.is_dir()


def test_by_default_a_directory_is_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = TemporaryFolder()
    assert folder.path.parent == tmp_path
    folder.remove()
