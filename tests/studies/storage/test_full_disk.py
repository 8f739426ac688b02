"""Disks that are really full: file systems of a few MiB, filled to the last block while a study runs."""

import contextlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import simulated_runner as simulated
from running import Recorder, poll
from simulated_worker import Worker, small_study

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.workers.run import run_study


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB and a few dozen files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=64", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Writes until nothing more fits."""
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def outcomes(path: Path) -> Counter[str]:
    trials = optuna.load_study(study_name="small", storage=open_storage(str(path), create=False)).trials
    return Counter(trial.user_attrs.get("outcome", trial.state.name) for trial in trials)


def test_a_full_disk_under_the_database_is_an_error_and_the_study_goes_on_elsewhere(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Worker(f"sqlite:///{disk}/a.db", small_study(trials=2), tmp_path).end()
    worker = Worker(f"sqlite:///{disk}/a.db", small_study(trials=5), tmp_path, hold=True)
    poll(lambda: worker.has_begun, "the third trial")
    fill(disk)
    worker.release()
    assert worker.process.wait(timeout=100) != 0
    said = worker.output().splitlines()[-1]
    assert f"the storage sqlite:///{disk}/a.db can't be written: " in said
    assert "results already saved are kept: free some space, or copy the database elsewhere, and rerun the same command" in said
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in disk.glob("a.db*"):
        shutil.copy(path, elsewhere)
    before = outcomes(elsewhere / "a.db")
    assert before["completed"] == 2
    monkeypatch.setattr(
        "tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner())
    )
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(tmp_path / "artifacts"))
    display = Recorder()
    run_study(small_study(trials=5), storage=str(elsewhere / "a.db"), display=display)
    # The third trial was measured, and its outcome was kept beside the artifacts.
    assert outcomes(elsewhere / "a.db")["completed"] == 5
    assert len(display.started) == 2


def test_a_full_disk_under_the_artifacts_is_said_and_the_study_goes_on_without_files(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk)
    monkeypatch.setattr(
        "tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner())
    )
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(disk / "artifacts"))
    display = Recorder()
    run_study(small_study(trials=3), storage=str(tmp_path / "a.db"), display=display)
    assert outcomes(tmp_path / "a.db") == {"completed": 3}
    said = [line for line in display.messages if line.startswith("trials' files can't be kept in ")]
    assert said == [
        f"trials' files can't be kept in {disk}/artifacts: No space left on device; the study continues without them"
    ]


def test_a_full_folder_for_temporary_files_is_one_sentence(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk)
    # Not even a name fits any more.
    with contextlib.suppress(OSError):
        for number in range(100):
            (disk / f"{number}-{'x' * 200}").touch()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    message = f"the directory for temporary files, {disk}, is full: free some space or set TMPDIR"
    with pytest.raises(TradeoffError, match=message):
        run_study(small_study(trials=1), storage=str(tmp_path / "a.db"), display=Recorder())
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(
        "tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner())
    )
    run_study(small_study(trials=1), storage=str(tmp_path / "a.db"), display=Recorder())
    assert outcomes(tmp_path / "a.db")["completed"] == 1
