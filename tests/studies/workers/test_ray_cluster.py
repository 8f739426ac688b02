"""Studies on a real Ray: a cluster of several nodes on this machine, of which one is lost in the middle."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.trial import TrialState
from running import (
    LOOPBACK,
    PROC,
    Recorder,
    cache_folder,
    command_line,
    descendants,
    is_alive,
    listening_addresses,
    parent_of,
    poll,
    prepared,
    tiny_job,
    tiny_study,
)
from tenacity import Retrying, stop_after_attempt

from tradeoff.studies.cli.run import run
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.workers import ray_cluster
from tradeoff.studies.workers.ray_cluster import (
    LOCAL,
    START_S,
    _check_reachable,
    _connected,
    _no_place,
    _own_directory,
    run_on_ray,
)
from tradeoff.studies.workers.worker import Assignment

# Each of the workers, and of those that replace them, imports torch: minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

# Long enough for a node to be lost in the middle of a trial.
JOB = tiny_job(epochs=60)
STUDY = tiny_study(name="clustered", job=JOB.model_dump(), sampler="grid", trials=4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without devices, and two nodes with a card each."""
    # Ray's workers give way to everything else by default, which on a busy machine takes minutes.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(START_S))
    head = {"num_cpus": 0, "include_dashboard": False}
    # As `tradeoff run --ray local` does, on a machine that is busy with other tests.
    made = Retrying(stop=stop_after_attempt(2), reraise=True)(Cluster, initialize_head=True, head_node_args=head)
    made.lost = made.add_node(num_cpus=1, resources={"card": 1})
    made.add_node(num_cpus=1, resources={"card": 1})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    made.session = Path(ray._private.worker._global_node.get_session_dir_path())
    yield made
    ray.shutdown()
    made.shutdown()


class Watcher(Recorder):
    """A display that acts once, as soon as a condition on the study's trials holds."""

    def __init__(self, act: Callable[[], bool]) -> None:
        super().__init__()
        self._act: Callable[[], bool] | None = act

    @property
    def acted(self) -> bool:
        return self._act is None

    def trials(self, records: Any) -> None:
        if self._act is not None and self._act():
            self._act = None


def holders_of(secret: str, session: Path) -> list[str]:
    """Where a secret can be read by anyone who looks at processes, or at what Ray has written."""
    pids = [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]
    files = [path for path in session.rglob("*") if path.is_file() and not path.is_symlink()]
    return [f"process {pid}" for pid in pids if secret in command_line(pid)] + [
        str(path) for path in files if secret.encode() in path.read_bytes()
    ]


@pytest.fixture(scope="module")
def outlived(
    cluster: Any, postgres: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[optuna.Study, Watcher, list[int], list[str]]:
    """A study of which a node was lost while its worker was in the middle of a trial."""
    prepared(JOB)
    url = postgres.new_database()
    raylet = cluster.lost.all_processes["raylet"][0].process.pid
    lost: list[int] = []
    seen: list[str] = []

    def lose_the_node() -> bool:
        study = optuna.load_study(study_name="clustered", storage=optuna.storages.RDBStorage(url))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owners = [owner["pid"] for trial in running for name, owner in trial.system_attrs.items() if name.endswith("owner")]
        if not any(is_alive(owner) and parent_of(owner) == raylet for owner in owners):
            return False
        seen.extend(holders_of(postgres.password, cluster.session))
        lost.extend(descendants(raylet))
        cluster.remove_node(cluster.lost, allow_graceful=False)
        return True

    display = Watcher(lose_the_node)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        study = run_on_ray(STUDY, address=cluster.address, storage=url, resource="card", display=display, cache=cache_folder())
    return study, display, lost, seen


def test_a_study_that_loses_a_node_ends_with_exactly_its_trials(outlived: Any) -> None:
    study, display, _, _ = outlived
    assert display.acted
    results = read_results(study)
    assert sum(record.counts for record in results.records) == 4
    assert {record.outcome for record in results.records if record.counts} == {"completed"}
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_nothing_is_trained_twice_but_the_trial_that_the_node_took(outlived: Any) -> None:
    study, _, _, _ = outlived
    results = read_results(study)
    trained = [tuple(sorted(record.params.items())) for record in results.records if record.outcome == "completed"]
    assert len(set(trained)) == len(trained) == 4
    (interrupted,) = (record for record in results.records if record.outcome == "interrupted")
    assert "died" in interrupted.reason
    assert tuple(sorted(interrupted.params.items())) in trained


def test_a_worker_that_a_node_took_is_started_again_with_a_line(outlived: Any) -> None:
    _, display, _, _ = outlived
    (line,) = (line for line in display.messages if "was lost" in line)
    assert re.match(r"worker \d was lost and is started again: ", line)
    assert "Ray: 3 nodes with places for 2 workers (1 card each)" in display.messages


def test_the_lost_node_leaves_no_process_and_the_study_no_worker(outlived: Any, cluster: Any) -> None:
    _, _, lost, _ = outlived
    assert lost
    poll(lambda: not any(is_alive(pid) for pid in lost), "the end of the lost node's processes")
    import ray

    assert ray.available_resources()["card"] == 1.0  # of the node that is left


def test_the_password_is_in_no_process_list_and_no_file_of_ray(outlived: Any, cluster: Any, postgres: Any) -> None:
    _, _, _, seen = outlived
    assert seen == []
    assert holders_of(postgres.password, cluster.session) == []


def test_ray_does_not_tell_anyone_how_it_is_used(outlived: Any, cluster: Any) -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()


def test_ctrl_c_ends_the_workers_in_order_and_the_study_goes_on_later(cluster: Any, tmp_path: Path) -> None:
    config = tiny_study(name="ended", job=tiny_job(epochs=1000).model_dump(), sampler="grid", trials=4)
    prepared(config.job)
    storage = f"sqlite:///{tmp_path}/a.db"

    def press() -> bool:
        study = optuna.load_study(study_name="ended", storage=storage)
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(
            config, address=cluster.address, storage=storage, resource="card", display=Watcher(press), cache=cache_folder()
        )
    results = read_results(load_study("ended", open_storage(storage)))
    assert [record.outcome for record in results.records if record.outcome is not None] == ["interrupted"]


def test_a_cluster_without_cards_is_one_sentence(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match=r"no node of the Ray cluster has the resource GPU; name .*--ray-resource"):
        run_on_ray(STUDY, address=cluster.address, storage=f"sqlite:///{tmp_path}/a.db")


def test_more_devices_than_a_node_has_is_one_sentence(cluster: Any, tmp_path: Path) -> None:
    config = STUDY.model_copy(update={"devices_per_trial": 2})
    with pytest.raises(TradeoffError, match="must not exceed the card of one node of the Ray cluster, 1, got 2"):
        run_on_ray(config, address=cluster.address, storage=f"sqlite:///{tmp_path}/a.db", resource="card")


def test_a_file_can_t_be_the_storage_of_a_cluster_of_several_machines() -> None:
    nodes = [{"NodeManagerHostname": name} for name in ("gpu-2", "gpu-1", os.uname().nodename)]
    with pytest.raises(TradeoffError, match=r"is a file of this machine, and the Ray cluster has nodes on gpu-1, gpu-2: keep"):
        _check_reachable("sqlite:////data/a.db", nodes)
    _check_reachable("postgresql://user@host/studies", nodes)


def test_a_resource_that_no_node_has_is_named() -> None:
    assert _no_place("card", 1, [{"Resources": {"CPU": 2.0}}], is_named=True) == (
        "no node of the Ray cluster has the resource card; start its nodes with that resource"
    )


def test_a_ray_that_does_not_start_in_time_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    lost = Exception("The current node timed out during startup.")
    answers: list[Any] = [lost, None, lost, lost]
    starts: list[dict[str, Any]] = []

    def start(**settings: Any) -> None:
        starts.append(settings)
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with _connected(LOCAL):
        assert len(starts) == 2
    with (
        pytest.raises(TradeoffError, match=r"Ray cluster at local can't be reached: The current node timed out"),
        _connected(LOCAL),
    ):
        pass
    assert answers == []


def test_an_assignment_does_not_show_its_storage() -> None:
    assignment = Assignment(
        config={}, storage="postgresql://me:hidden@host/a", creates=True, deadline_unix_s=None,
        estimates_memory=True, cache=None,
    )  # fmt: skip
    assert "hidden" not in repr(assignment)


def test_a_resource_without_ray_is_refused() -> None:
    with pytest.raises(TradeoffError, match="--ray-resource requires --ray ADDRESS"):
        run(trials=1, storage="a.db", ray_resource="card")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:gcs"])
def test_an_address_where_no_ray_is_is_one_sentence(address: str, tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match=f"the Ray cluster at {address} can't be reached: .*; name its address"):
        run_on_ray(STUDY, address=address, storage=f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize(
    ("address", "is_warned"), [("192.0.2.1:1", True), ("ray://head.example:1", True), ("127.0.0.1:1", False)]
)
def test_an_address_that_is_not_loopback_is_warned_of(
    address: str, is_warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster, "_check_answers", lambda address: pytest.fail("is tried"))
    display = Recorder()
    with pytest.raises(pytest.fail.Exception):
        run_on_ray(STUDY, address=address, storage=f"sqlite:///{tmp_path}/a.db", display=display)
    assert ["run any code" in line for line in display.messages] == [True] * is_warned


def test_a_cluster_whose_nodes_are_not_on_loopback_is_warned_of_once() -> None:
    display = Recorder()
    ray_cluster._say_if_open(display, ["10.0.0.7", "127.0.0.1", "10.0.0.7", "::1"])
    assert [line.partition(" is not")[0] for line in display.messages] == ["tradeoff: the Ray cluster at 10.0.0.7"]


ON_ITS_OWN = """
import sys
from tradeoff.studies.workers.ray_cluster import _connected

with _connected("local"):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""


def test_a_ray_of_its_own_is_for_its_user_alone_and_ends_with_its_study() -> None:
    driver = subprocess.Popen([sys.executable, "-c", ON_ITS_OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    address = driver.stdout.readline().strip()
    processes = [driver.pid, *descendants(driver.pid)]
    addresses = listening_addresses(processes)
    with grpc.insecure_channel(address) as channel:
        jobs = channel.unary_unary("/ray.rpc.JobInfoGcsService/GetAllJobInfo", lambda nothing: b"", bytes)
        with pytest.raises(grpc.RpcError) as refused:
            jobs(None, timeout=60)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    driver.communicate("\n", timeout=60)
    assert addresses
    assert set(addresses) <= LOOPBACK
    assert driver.returncode == 0
    poll(lambda: not any(is_alive(pid) for pid in processes), "the end of Ray")


def test_a_ray_of_its_own_keeps_its_files_in_a_directory_for_its_user_alone() -> None:
    with _own_directory(LOCAL):
        folder = Path(os.environ["RAY_TMPDIR"])
        assert folder.stat().st_mode & 0o777 == 0o700
        # The longest path of a socket in it, of at most 107 bytes.
        assert len(f"{folder}/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1") <= 107
    assert not folder.exists()
    with _own_directory("127.0.0.1:6379"):
        assert "RAY_TMPDIR" not in os.environ
