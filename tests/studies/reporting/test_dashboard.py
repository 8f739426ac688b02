import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from memory_storage import in_memory
from stored_studies import TRIALS, completed, make_study, params

from tradeoff.searchspace import Categorical, SearchSpace
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.dashboard import _shorten, serve
from tradeoff.studies.reporting.dashboard_guard import _is_own_name
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.publication import as_they_stand
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.urls import is_loopback

COMMAND = [sys.executable, "-m", "tradeoff.studies.cli.main", "dashboard"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/a.db"
    make_study(open_storage(url))
    return url


@pytest.fixture(scope="module")
def address(storage: str) -> Iterator[str]:
    """The address that the running command prints."""
    command = [*COMMAND, "--storage", storage, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Dashboard at http://127.0.0.1:"), process.stderr
        yield line.split()[2]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


def read(address: str, path: str) -> Any:
    with urllib.request.urlopen(address.replace("/dashboard", path), timeout=30) as answer:
        return json.load(answer)


def wait_until(look: Callable[[], Any]) -> Any:
    """What `look` finds once it finds something; nothing if it doesn't within a minute."""
    end_s = time.monotonic() + 60
    while not (found := look()) and time.monotonic() < end_s:
        time.sleep(0.2)
    return found


def test_the_address_printed_is_the_dashboards_page(address: str) -> None:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "Optuna Dashboard" in answer.read().decode()


def test_the_dashboard_shows_the_study_with_its_objectives_named(address: str) -> None:
    summary = read(address, "/api/studies")["study_summaries"][0]
    assert summary["study_name"] == "stars"
    detail = read(address, f"/api/studies/{summary['study_id']}")
    assert detail["directions"] == ["maximize", "minimize", "minimize"]
    assert detail["objective_names"] == ["accuracy", "train_time_s", "peak_memory_mib"]
    assert len(detail["trials"]) == len(TRIALS)


def test_a_trial_out_of_memory_is_shown_as_infeasible_and_never_as_best(address: str) -> None:
    study_id = read(address, "/api/studies")["study_summaries"][0]["study_id"]
    detail = read(address, f"/api/studies/{study_id}")
    trial = detail["trials"][5]
    assert trial["state"] == "Pruned"
    assert trial["constraints"] == [512.0]
    assert sorted(best["number"] for best in detail["best_trials"]) == [0, 1, 2, 4]


def test_the_best_trials_of_a_finished_search_are_its_front_in_the_dashboard_and_in_optuna(address: str, storage: str) -> None:
    space = SearchSpace(domains={**simulated.SPACE.domains, "per_device_train_batch_size": Categorical((2, 4, 8))})
    goal = simulated.objective(simulated.SimulatedRunner(), space=space, publishes_at_end=True)
    study = simulated.new_study(simulated.decoupled(goal), storage=open_storage(storage), name="searched")
    assert simulated.search(study, goal) is not None
    records, _ = as_they_stand(simulated.learned(goal, study)[0])
    front = sorted(record.number for record in pareto_front(records, simulated.OBJECTIVES))
    assert len(front) > 2
    assert sorted(trial.number for trial in study.best_trials) == front
    studies = wait_until(lambda: [s for s in read(address, "/api/studies")["study_summaries"] if s["study_name"] == "searched"])
    best = read(address, f"/api/studies/{studies[0]['study_id']}")["best_trials"]
    assert sorted(trial["number"] for trial in best) == front


def ask(address: str, method: str, path: str, headers: list[tuple[str, str]]) -> tuple[int, str]:
    """Send a request with exactly these headers, and return the answer's status and first line."""
    port = int(address.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value.replace("PORT", str(port)))
    connection.endheaders()
    answer = connection.getresponse()
    status, body = answer.status, answer.read().decode()
    connection.close()
    return status, body.splitlines()[0]


OWN = ("Host", "127.0.0.1:PORT")
FOREIGN = "the dashboard must be asked for as 127.0.0.1 or localhost, got Host: "


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "evil.example")],
        [("Host", "evil.example:PORT"), ("Origin", "http://evil.example:PORT")],
        [("Host", "localhost.evil.example")],
        [("Host", "127.0.0.1.evil.example")],
        [("Host", "127.0.0.1@evil.example")],
        [("Host", "evil.example#127.0.0.1")],
        [("Host", "10.0.0.1")],
        [("Host", "127.0.0.1:port")],
        [("Host", "")],
        [],
        [OWN, ("Host", "evil.example")],
        [("Host", "evil.example"), OWN],
    ],
)
def test_a_request_for_another_host_is_forbidden(address: str, headers: list[tuple[str, str]]) -> None:
    for method, path in (
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("GET", "/api/studies"),
        ("GET", "/dashboard"),
    ):
        status, body = ask(address, method, path, headers)
        assert (status, body.startswith(FOREIGN)) == (403, True), (method, path)
    assert ask(address, "DELETE", "http://127.0.0.1/api/studies/1", [("Host", "evil.example")])[0] == 403
    assert read(address, "/api/studies")["study_summaries"]


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:1", "http://localhost:PORT", "https://127.0.0.1", "null", "", "file://"],
)
def test_a_page_of_another_origin_reads_and_changes_nothing(address: str, origin: str) -> None:
    for method, path in (("DELETE", "/api/studies/1"), ("POST", "/api/studies"), ("GET", "/artifacts/1/0/ab")):
        status, body = ask(address, method, path, [OWN, ("Origin", origin)])
        assert (status, body.startswith("a request from a page must come from the dashboard's own, got Origin: ")) == (
            403,
            True,
        )


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST", "[::1]:PORT", "127.0.0.1:8888", "127.1.2.3"])
def test_the_dashboard_is_itself_under_each_name_of_this_machine(address: str, host: str) -> None:
    # A tunnel to another machine has a port of its own.
    for headers in ([("Host", host)], [("Host", host), ("Origin", f"http://{host}")]):
        assert ask(address, "GET", "/api/studies", headers)[0] == 200


@pytest.mark.parametrize(
    ("listening", "named", "allowed"),
    [
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("10.0.0.7", "evil.example", False),
        ("gpu-box.lan", "gpu-box.lan", True),
        ("gpu-box.lan", "10.0.0.7", False),
        ("0.0.0.0", "10.0.0.7", True),
        ("0.0.0.0", socket.gethostname().lower(), True),
        ("::", "fe80::1", True),
        ("0.0.0.0", "evil.example", False),
        ("127.0.0.1", socket.gethostname().lower(), False),
    ],
)
def test_where_others_are_let_in_the_host_is_what_was_said_or_an_address(listening: str, named: str, allowed: bool) -> None:
    assert _is_own_name(named, listening) is allowed


def test_no_page_shows_the_dashboard_within_itself_and_a_file_is_no_page_of_it(address: str) -> None:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
    # The same file under another spelling is no page either.
    for path in ("/artifacts/1/ab", "/%ffartifacts/1/ab", "/api/studies/99"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(address.replace("/dashboard", path), timeout=30)
        assert (missing.value.code, missing.value.headers["Content-Security-Policy"]) == (404, "sandbox")
        missing.value.close()


AS_ANOTHER_USER = pytest.mark.skipif(
    os.getuid() != 0 or not Path("/proc/net/tcp").exists(), reason="needs root, to become another user, and Linux"
)


@AS_ANOTHER_USER
def test_another_users_connection_is_not_taken_for_one_of_the_same_ports(address: str) -> None:
    port = int(address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as own:
        program = f"""
import os, socket
os.setuid(65534)
for last in range(2, 40):
    connection = socket.socket()
    connection.bind((f"127.0.0.{{last}}", {own.getsockname()[1]}))
    connection.connect(("127.0.0.1", {port}))
    connection.sendall(b"GET /api/studies HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
    print(connection.recv(12).decode())
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.splitlines()) == {"HTTP/1.0 403"}


@AS_ANOTHER_USER
@pytest.mark.parametrize("ending", ["", "connection.close()", "connection.shutdown(socket.SHUT_WR)"])
def test_another_user_of_the_machine_reads_and_changes_nothing(address: str, ending: str) -> None:
    port = address.split(":")[2].split("/")[0]
    program = f"""
import os, socket
os.setuid(65534)
connection = socket.socket()
connection.connect(("127.0.0.1", {port}))
connection.sendall(b"DELETE /api/studies/1 HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
{ending or "print(connection.recv(1000).decode())"}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ("403 Forbidden" in done.stdout) is (ending == "")
    assert "stars" in [study["study_name"] for study in read(address, "/api/studies")["study_summaries"]]


def test_a_trial_that_ends_while_the_dashboard_runs_appears(address: str, storage: str) -> None:
    study = optuna.load_study(study_name="stars", storage=open_storage(storage))
    study.add_trial(completed((0.1, 99.0, 9999.0), params(2)))
    study_id = read(address, "/api/studies")["study_summaries"][0]["study_id"]
    # The dashboard keeps what it read for a few seconds.
    new = wait_until(lambda: read(address, f"/api/studies/{study_id}?after=6")["trials"])
    assert [trial["number"] for trial in new] == [6]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Exception: the storage a.db does not answer: gone\n  File ...", "the storage a.db does not answer: gone"),
        ("Exception: another one\n  File ...", "Exception: another one\n  File ..."),
    ],
)
def test_a_request_that_meets_an_absent_database_is_one_line_without_a_stack(written: str, shown: str) -> None:
    record = logging.LogRecord("optuna_dashboard._bottle_util", logging.ERROR, "", 0, written, (), None)
    assert _shorten(record)
    assert record.getMessage() == shown


def test_a_port_in_use_is_one_sentence_and_exit_code_2(storage: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*COMMAND, "--storage", storage, "--port", port], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == f"tradeoff: port {port} on 127.0.0.1 is in use; choose another --port, or 0 for any free one\n"
    assert ended.stdout == ""


def test_letting_others_in_is_warned_of(storage: str) -> None:
    command = [*COMMAND, "--storage", storage, "--port", "0", "--allow-remote"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "can read, change and delete the studies" in process.stderr.readline()
        process.kill()


@pytest.mark.parametrize(
    ("host", "port", "allow_remote", "sentence"),
    [
        (
            "0.0.0.0",
            0,
            False,
            "--host 0.0.0.0 lets other machines in, and the dashboard has no passwords: .* add --allow-remote",
        ),
        ("192.0.2.1", 0, True, "--host 192.0.2.1 is not an address of this machine"),
        ("127.0.0.1", 70000, False, "--port must be 0 to 65535, got 70000"),
        ("nowhere.invalid", 0, True, "--host nowhere.invalid is not a known address"),
    ],
)
def test_an_address_that_can_not_be_served_is_refused(host: str, port: int, allow_remote: bool, sentence: str) -> None:
    storage = in_memory()
    with pytest.raises(TradeoffError, match=sentence):
        serve(storage, host=host, port=port, allow_remote=allow_remote, announce=print)


def test_only_addresses_of_this_machine_are_loopback() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "127.8.8.8", "0.0.0.0", "::", "10.0.0.1", "", "example.org")
    assert [host for host in hosts if is_loopback(host)] == ["127.0.0.1", "::1", "localhost", "127.8.8.8"]


def test_a_storage_that_is_not_there_is_said_before_anything_is_served(tmp_path: Path) -> None:
    ended = subprocess.run([*COMMAND, "--storage", str(tmp_path / "a.db")], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("tradeoff: no storage ")
