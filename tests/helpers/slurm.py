"""A real Slurm on this machine for tests: Debian's munged, slurmctld and slurmd, with keys, sockets and states of their own."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

_START_LIMIT_S = 60
# A controller looks at time limits every half minute, and a job that is requeued waits as long as its credential lasts.
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=100000
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there is no Slurm here, in a sentence, or None."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]:
        return f"Slurm is not installed ({missing[0]} is missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "the test starts Slurm's own daemons, for which it has to be root"
    return None


class Slurm:
    """A cluster of one node.

    Attributes:
        environment: What its commands need, over this process's own variables.
    """

    def __init__(self, *, num_cpus: int) -> None:
        # Not below a folder that only this user may enter: munged refuses to answer there.
        self._folder = Path(f"/tmp/tradeoff-slurm-{secrets.token_hex(6)}")
        for name in ("", "munge", "state", "spool"):
            (self._folder / name).mkdir(mode=0o755)
        self.environment = {"SLURM_CONF": str(self._folder / "slurm.conf")}
        ports = dict(zip(("control_port", "node_port"), _free_ports(2), strict=True))
        host = socket.gethostname().split(".")[0]
        (self._folder / "slurm.conf").write_text(
            _CONFIGURATION.format(folder=self._folder, host=host, num_cpus=num_cpus, **ports)
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start_munge()
        self._start("slurmctld", "-D", "-i")
        self._start("slurmd", "-D", "-N", host)
        self._wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"), "the node is not idle")

    def run(self, *command: str, folder: Path | None = None) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=os.environ | self.environment, timeout=60
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def close(self) -> None:
        """Ends everything and removes its files."""
        self.run("scancel", "--full", "--user=root")
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What the daemons wrote."""
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self._folder.glob("*.log")))

    def _start_munge(self) -> None:
        user, folder = pwd.getpwnam("munge"), self._folder / "munge"
        (folder / "key").write_bytes(secrets.token_bytes(1024))
        os.chmod(folder / "key", 0o400)
        for path in (folder, folder / "key"):
            os.chown(path, user.pw_uid, user.pw_gid)
        files = [f"--{kind}={folder / name}" for kind, name in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"))]
        files += [f"--log-file={folder / 'log'}", f"--seed-file={folder / 'seed'}"]
        as_user = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._start(*as_user, "munged", "--foreground", "--num-threads=2", *files)
        self._wait_for((folder / "socket").exists, "munged does not answer")

    def _start(self, *command: str) -> None:
        with (self._folder / "output.log").open("ab") as log:
            environment = os.environ | self.environment
            whole = ["setpriv", "--pdeathsig=KILL", *command]  # it ends with the tests, also where these are killed
            self._processes.append(subprocess.Popen(whole, stdout=log, stderr=log, env=environment, start_new_session=True))

    def _wait_for(self, condition: object, what: str) -> None:
        end_s = time.monotonic() + _START_LIMIT_S
        while not condition():  # type: ignore[operator]
            assert all(process.poll() is None for process in self._processes), self.log()
            assert time.monotonic() < end_s, f"{what}\n{self.log()}"
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
