"""A GPU's power limit behind the real pynvml and a stand-in for the driver's library: refused, set, and always restored."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_stub import ROOT, NvmlStub, compile_stub
from running import cache_folder, shared_server, tiny_job, tiny_study

from tradeoff.objectives.isolation.trial_server import JobError
from tradeoff.searchspace import TrialParameters

UUID = "GPU-11111111-1111-1111-1111-111111111111"
CHECK = f"""
from tradeoff.objectives.device.power_limit import check_power_limits
try:
    answer = check_power_limits({UUID!r}, {{limits_w}}, name="a GPU")
except ValueError as error:
    answer = str(error)
"""
# What a trial does, in a server that takes its processors for that GPU.
SERVER = f"""
import sys, time, types
from pathlib import Path
from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.power_limit import set_power_limit
CpuDevice.limit_power = lambda self, limit_w, folder: set_power_limit({UUID!r}, limit_w, folder)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library: Path, tmp_path: Path) -> NvmlStub:
    stub = NvmlStub(library, tmp_path / "state")
    stub.card(UUID)
    return stub


def test_a_limit_in_the_range_of_the_gpu_may_be_set_by_who_may_set_any(stub: NvmlStub) -> None:
    assert stub.run(CHECK.format(limits_w=[100, 250.5])) is None
    assert stub.power_limit_w(UUID) == 300.0


@pytest.mark.parametrize("limit_w", [99, 401])
def test_a_limit_outside_of_its_range_is_refused_with_the_range(stub: NvmlStub, limit_w: float) -> None:
    said = stub.run(CHECK.format(limits_w=[200, limit_w]))
    assert said == f"space.power_limit_w must be from 100 to 400 W on a GPU, got {limit_w}"
    assert stub.power_limit_w(UUID) is None


def test_without_the_right_to_set_it_no_limit_is_taken(stub: NvmlStub) -> None:
    stub.refuse("nvmlDeviceSetPowerManagementLimit", 4)
    assert stub.run(CHECK.format(limits_w=[200])) == (
        "space.power_limit_w: the power limit of a GPU can't be set here (NVML: Insufficient Permissions); run as root on a"
        " machine whose GPU allows it, or leave it out"
    )


def test_a_processor_has_no_power_limit() -> None:
    with pytest.raises(JobError, match=r"space\.power_limit_w: .* has no power limit that can be set; leave it out"):
        shared_server().check_power_limits([200.0])


def test_the_limit_from_before_the_first_one_is_restored(stub: NvmlStub, tmp_path: Path) -> None:
    stub.run(
        f"""
from pathlib import Path
from tradeoff.objectives.device.power_limit import restore_power_limits, set_power_limit
folder = Path({str(tmp_path)!r})
set_power_limit({UUID!r}, 200, folder)
set_power_limit({UUID!r}, 150, folder)
answer = None
"""
    )
    assert stub.power_limit_w(UUID) == 150.0
    stub.run(
        f"""
from pathlib import Path
from tradeoff.objectives.device.power_limit import restore_power_limits
restore_power_limits(Path({str(tmp_path)!r}))
answer = None
"""
    )
    assert stub.power_limit_w(UUID) == 300.0
    assert list(tmp_path.glob("power-limit-*")) == []


def test_what_a_killed_process_has_set_is_restored_by_the_next_that_makes_a_temporary_directory(
    stub: NvmlStub, tmp_path: Path
) -> None:
    sets = f"""
import os
from tradeoff.objectives.device.power_limit import set_power_limit
from tradeoff.objectives.device.temporary_folder import TemporaryFolder
from pathlib import Path
folder = TemporaryFolder(parent=Path({str(tmp_path)!r})).path / "trial-1"
folder.mkdir()
set_power_limit({UUID!r}, 200, folder)
print("set", flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **stub.environment()}
    killed = subprocess.run([sys.executable, "-c", sets], env=environment, capture_output=True, text=True)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "set\n"), killed.stderr
    assert stub.power_limit_w(UUID) == 200.0
    next_one = "from pathlib import Path\nfrom tradeoff.objectives.device.temporary_folder import TemporaryFolder\n"
    stub.run(f"{next_one}TemporaryFolder(parent=Path({str(tmp_path)!r})).remove()\nanswer = None")
    assert stub.power_limit_w(UUID) == 300.0


@pytest.mark.parametrize("is_killed", [False, True], ids=["ends", "is killed"])
def test_a_trials_limit_is_in_force_while_it_runs_and_restored_when_it(is_killed: bool, stub: NvmlStub, tmp_path: Path) -> None:
    job = tiny_job()
    folders = shared_server().prepare(job.model_dump(), cache_folder())["folders"]
    (tmp_path / "limited.py").write_text(SERVER)
    request = {
        "job": job.model_dump(),
        "parameters": {"per_device_train_batch_size": 8, "power_limit_w": 200.0},
        "data_folders": folders,
        "stages": ["probe"],
        "memory_limit_mib": None,
    }
    code = f"""
import os, signal
from pathlib import Path
import psutil
from tradeoff.objectives.isolation.trial_server import TrialServer
state = Path({str(stub.state)!r} + "." + {UUID!r})
seen = []
def hear(event):
    if event["stage"] == "probe":
        seen.append(int(state.read_text()))
        if {is_killed}:
            (server,) = psutil.Process().children()
            for trial in server.children():
                trial.send_signal(signal.SIGKILL)
with TrialServer(modules=("limited",)) as server:
    outcome = server.run_trial({request!r}, on_progress=hear)
    answer = [seen[0], int(state.read_text()), outcome.kind]
"""
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    assert stub.run(code, **environment) == [200000, 300000, "failed" if is_killed else "completed"]


def test_a_power_limit_changes_time_and_neither_memory_nor_what_is_learned() -> None:
    space = tiny_study(
        space={"per_device_train_batch_size": [8], "precision": "fp32", "power_limit_w": [None, 200, 300]}
    ).search_space()
    assert space.domains["power_limit_w"].values() == (None, 200.0, 300.0)
    free, limited = (TrialParameters(per_device_train_batch_size=8, power_limit_w=limit_w) for limit_w in (None, 200.0))
    assert free.learning_class() == limited.learning_class()
    assert free.memory_class() == limited.memory_class()
    assert free.speed_class() != limited.speed_class()
