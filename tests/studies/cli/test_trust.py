"""What SECURITY.md promises: no code from data, no secrets in what is shown or written, no file outside of its folder."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from postgres import PostgresServer
from running import poll
from simulated_worker import Worker, small_study
from stored_studies import make_study

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import export
from tradeoff.studies.reporting.annotate import annotate_study, artifact_folder
from tradeoff.studies.reporting.report import html_report
from tradeoff.studies.results.results import read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.storage.opening import load_study, open_storage

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]
# What makes objects, and so runs code, out of data.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# A function of the user's own program, which that program sends to a process that it has started: packed, and unpacked.
SENDING = {"objectives/job/sent_function.py": {"pickle"}, "studies/python/functions.py": {"cloudpickle", "pickle"}}
UNSAFE_CALLS = {"eval", "exec", "unsafe_load", "full_load", "load_all"}


def syntax_of(package: str) -> list[tuple[str, ast.AST]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if hasattr(node, "lineno")
    ]


@pytest.mark.parametrize("package", ["searchspace", "objectives", "studies"])
def test_no_module_unpickles_or_evaluates_data(package: str) -> None:
    found = []
    for place, node in syntax_of(package):
        if isinstance(node, ast.Import):
            unsafe = UNSAFE_MODULES - SENDING.get(place.partition(":")[0], set())
            found += [f"{place} {alias.name}" for alias in node.names if alias.name.split(".")[0] in unsafe]
        elif isinstance(node, ast.ImportFrom):
            is_unsafe = (node.module or "").split(".")[0] in UNSAFE_MODULES
            # An exception's name reads nothing.
            found += [f"{place} {node.module}"] if is_unsafe and not all(a.name.endswith("Error") for a in node.names) else []
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            # A model's own `eval()` takes no argument.
            found += [f"{place} {name}()"] if name in UNSAFE_CALLS and (node.args or node.keywords) else []
    assert found == []


def test_processes_exchange_bytes_and_never_pickles() -> None:
    users = [
        path
        for package in ("objectives", "studies")
        for path in (ROOT / package).rglob("*.py")
        if "multiprocessing.connection import Connection" in path.read_text(encoding="utf-8")
    ]
    assert sorted(path.name for path in users) == ["forked.py", "messages.py"]
    for path in users:
        calls = [node.func.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]  # fmt: skip
        assert {"send_bytes", "recv_bytes"} <= set(calls)
        assert {"send", "recv"}.isdisjoint(calls)


def test_code_from_the_hub_is_run_only_where_the_job_says_so() -> None:
    assert TextClassificationJob().trust_remote_code is False
    assert load_config(None, overrides=["job.trust_remote_code=true"]).job.trust_remote_code is True


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc/passwd", "a\\b", "", "a\0b", "x" * 201, "a\nb"])
def test_a_study_name_that_could_leave_a_folder_is_refused(name: str) -> None:
    with pytest.raises(TradeoffError, match="name: "):
        load_config(None, name=name) if name else load_config(None, overrides=["name=''"])


@pytest.mark.parametrize("name", ["..", ".", "-rf", "é" * 100, "名前 🙂", "x" * 200, "<b>&", "$(true)"])
def test_whatever_a_study_is_called_its_files_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    study = make_study(open_storage(str(home / "a.db")), name=name)
    failed = create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"outcome": "failed", "reason": "x", "traceback": "t"})
    study.add_trial(failed)
    results = read_results(study)
    annotate_study(study, artifacts=artifact_folder(study.storage))
    assert "<b>&" not in html_report(results)
    export(results, choose(results, Selection(knee=True)), home / "chosen")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert {path.name for path in home.iterdir()} <= {"a.db", "a.db-wal", "a.db-shm", "a-artifacts", "chosen"}
    assert all(path.is_file() and len(path.name) == 36 for path in (home / "a-artifacts").iterdir())


def test_an_artifact_of_the_dashboard_can_not_be_asked_for_outside_of_its_folder(tmp_path: Path) -> None:
    import optuna_dashboard
    from optuna.artifacts import FileSystemArtifactStore

    (tmp_path / "secret").write_text("secret")
    (tmp_path / "artifacts").mkdir()
    store = FileSystemArtifactStore(tmp_path / "artifacts")
    make_study(open_storage(str(tmp_path / "a.db")))
    app = optuna_dashboard.wsgi(open_storage(str(tmp_path / "a.db")), artifact_store=store)
    for path in ("/artifacts/1/../secret", "/artifacts/1/..%2fsecret", "/artifacts/1/1/../../secret", "/static/../../secret"):
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": None, "wsgi.errors": sys.stderr,
                       "SERVER_NAME": "x", "SERVER_PORT": "1", "wsgi.url_scheme": "http", "QUERY_STRING": ""}  # fmt: skip
        assert b"".join(app(environment, lambda *_: None)) != b"secret"


def shown(storage: str, *arguments: str) -> str:
    """What a command prints that has the storage from the environment."""
    environment = os.environ | {"TRADEOFF_STORAGE": storage}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=250, env=environment)
    return done.stdout + done.stderr


def test_a_password_is_in_nothing_that_is_printed_written_or_listed(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("secrets") / "url"
    secret.write_text(postgres_url)
    storage = f"@{secret}"
    worker = Worker("", small_study(trials=2), tmp_path, hold=True, environment={"TRADEOFF_STORAGE": storage})
    poll(lambda: worker.has_begun, "the trial's begin")
    listed = b"".join((Path("/proc") / str(worker.process.pid) / name).read_bytes() for name in ("cmdline", "environ"))
    worker.release()
    said = [worker.end()]
    said += [shown(storage, command, *rest) for command, *rest in (
        ["front"], ["front", "--format", "json"], ["report", "--format", "md"],
        ["report", "--output", str(tmp_path / "report.html")], ["export", "--no-confirm", "--output", str(tmp_path / "chosen")],
        ["front", "absent"])]  # fmt: skip
    said.append(shown(postgres_url.replace(str(postgres.port), "1"), "front"))
    assert "can't be opened" in said[-1]
    study = load_study("small", open_storage(postgres_url))
    annotate_study(study, artifacts=tmp_path / "artifacts")
    attributes = [study.storage.get_study_system_attrs(study.study_id), study.user_attrs]
    stored = repr(attributes) + repr([trial.user_attrs | trial.system_attrs for trial in study.trials])
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "chosen" / "README.md").exists()
    assert postgres.password not in "".join(said) + stored
    assert not [text for text in [listed, *written] if postgres.password.encode() in text]
