"""The kernel's own kill for lack of memory, in a control group made for it: told from a kill by anybody else."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Events, end_trial, request, shared_server, tiny_job

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.isolation import trial_server as isolation
from tradeoff.objectives.measurements.outcome import Failed, OutOfMemory

CGROUP = Path("/sys/fs/cgroup")

# Imported by the server before it forks: while a file is there, what is forked eats memory, page by page, until it is killed.
HOG = """
import os
from pathlib import Path

def eat():
    if Path(os.environ["HOG"]).exists():
        eaten = [bytearray(b"x" * (1 << 20)) for _ in range(1 << 14)]

os.register_at_fork(after_in_child=eat)
"""

PARENT = """
import json, os, signal, sys
from pathlib import Path
from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.measurements.outcome import to_json

group, request = Path(sys.argv[1]), json.loads(sys.argv[2])
(group / "cgroup.procs").write_text(str(os.getpid()))
hog = Path(os.environ["HOG"])

def kill(event):
    if event["stage"] == "train":
        server = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0])
        trial = int(Path(f"/proc/{server}/task/{server}/children").read_text().split()[0])
        os.kill(trial, signal.SIGKILL)

outcomes = []
with TrialServer(modules=("hog",)) as server:
    server.describe_device()
    used, limit = (("memory.current", "memory.max") if (group / "memory.max").exists()
                   else ("memory.usage_in_bytes", "memory.limit_in_bytes"))
    (group / limit).write_text(str(int((group / used).read_text()) + (400 << 20)))
    hog.touch()
    outcomes.append(json.loads(to_json(server.run_trial(request))))
    hog.unlink()
    outcomes.append(json.loads(to_json(server.run_trial(request, on_progress=kill))))
    outcomes.append(json.loads(to_json(server.run_trial(request))))
print(json.dumps(outcomes))
"""


def own_group() -> Path | None:
    """The control group of this process in which memory can be limited, or None."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        mount = CGROUP / "memory" if controllers == "memory" else CGROUP if controllers == "" else None
        group = None if mount is None else mount / name.lstrip("/")
        if group is not None and group.is_dir() and ("memory" in controllers or (CGROUP / "memory.max").exists()):
            return group
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    parent = own_group()
    if parent is None:
        pytest.skip("there is no control group for memory here")
    made = parent / f"tradeoff-test-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    if not ((made / "memory.limit_in_bytes").exists() or (made / "memory.max").exists()):
        made.rmdir()
        pytest.skip("the control groups here do not limit memory")
    yield made
    for pid in (made / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(OSError):
        made.rmdir()


def outcomes_in(group: Path, folder: Path) -> list[dict[str, Any]]:
    (folder / "hog.py").write_text(HOG)
    environment = os.environ | {
        "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[3]}",
        "HOG": str(folder / "eat"),
    }
    command = [sys.executable, "-c", PARENT, str(group), json.dumps(request(stages=("probe", "train")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


def test_a_kill_by_the_kernel_is_out_of_memory_and_a_kill_by_somebody_else_is_not(group: Path, tmp_path: Path) -> None:
    by_kernel, by_somebody, after = outcomes_in(group, tmp_path)
    assert by_kernel["kind"] == "out_of_memory"
    assert by_kernel["reason"].startswith("killed by the kernel for lack of memory at ")
    assert by_kernel["shortfall_mib"] > 0
    assert (by_somebody["kind"], by_somebody["reason"]) == (
        "failed",
        "the trial's process was killed by SIGKILL, in stage 'train'",
    )
    assert after["kind"] == "completed"


@pytest.mark.parametrize("limit_mib", [64, 1 << 30])
def test_where_no_kills_are_counted_a_kill_at_the_limit_of_memory_is_taken_for_the_kernels(
    limit_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process and its kill are real; of the kernel's files there is the one that says how much it may hold."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/memory.max").write_text(f"{limit_mib << 20}\n")
    monkeypatch.setattr(
        isolation, "KernelKillWatch", lambda: KernelKillWatch(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup")
    )
    outcome = shared_server().run_trial(
        request(tiny_job(epochs=100_000)), on_progress=Events("train", end_trial(signal.SIGKILL))
    )
    if limit_mib == 64:
        assert isinstance(outcome, OutOfMemory)
        assert "of the 64 MiB that there are, in stage 'train': taken for a kill by the kernel" in outcome.reason
    else:
        assert isinstance(outcome, Failed)
        assert outcome.reason == "the trial's process was killed by SIGKILL, in stage 'train'"
