"""Configurations that somebody else has written, in a storage or an exported directory: they run no code by themselves."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from stored_studies import completed, make_study, params
from typer.testing import CliRunner

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.jobs import CustomJob, TextClassificationJob
from tradeoff.studies.cli.main import app
from tradeoff.studies.config.stored import AllowedCode, option_for, stored_config
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.workers.study_run import StudyRun
from tradeoff.studies.workers.worker import Assignment, work

PAGER = {"build": "pydoc:pipepager", "kwargs": {"cmd": "touch hacked"}, "metric": "accuracy"}
HUB = {"model": "someone/model", "dataset": "someone/data", "trust_remote_code": True}
DERIVED = {
    "derived_from": 0,
    "accuracy_source": "trained in trial 0",
    "train_time_s_source": "probe",
    "peak_memory_mib_source": "probe",
}
TRIALS = (completed((0.80, 40.0, 900.0), params(8)), completed((0.80, 20.0, 800.0), params(4, 2), **DERIVED))


class NoServer(TrialServer):
    """A server that must not be started: it would run the job's code."""

    def start(self) -> None:
        raise AssertionError("a process was started")


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("workers.run", "execution.confirm"):
        monkeypatch.setattr(f"tradeoff.studies.{module}.TrialServer", NoServer)
    monkeypatch.chdir(tmp_path)


def stored(job: dict[str, Any], **config: Any) -> str:
    """A database with a study of this job, with a derived trial."""
    study = make_study(open_storage("a.db"), TRIALS)
    study.set_user_attr("config", {**study.user_attrs["config"], "job": job, **config})
    return "a.db"


def exported(job: dict[str, Any], **keys: Any) -> Path:
    content = {
        "job": job, "parameters": params(8), "study": {"name": "stars"}, "trial": 0, "values": {"accuracy": {"value": 0.5}},
        "memory_mib": {}, "measured": {}, "device": {"name": "x"},
    }  # fmt: skip
    Path("chosen").mkdir()
    Path("chosen/tradeoff.yaml").write_text(yaml.safe_dump(content | keys))
    return Path("chosen")


def said(*arguments: str) -> str:
    """The sentence with which a command refuses."""
    with pytest.raises(TradeoffError) as refused:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "\n" not in str(refused.value)
    return str(refused.value)


COMMANDS = (
    ["worker"],
    ["worker", "--workers", "2"],
    ["confirm"],
    ["export", "--trial", "1", "--output", "out"],
    ["export", "--trial", "0", "--no-confirm", "--output", "out"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("job", "names", "option"),
    [(PAGER, r"pydoc:pipepager with {'cmd': 'touch hacked'}", "--build"), (HUB, "'someone/model'", "--trust-remote-code")],
    ids=["function", "hub"],
)
def test_code_that_a_database_names_is_not_run(command: list[str], job: dict[str, Any], names: str, option: str) -> None:
    sentence = said(*command, "--storage", stored(job))
    assert names in sentence
    assert option in sentence
    assert not Path("hacked").exists()
    assert not Path("out").exists()


@pytest.mark.parametrize(("job", "option"), [(PAGER, "--build"), (HUB, "--trust-remote-code")])
def test_code_that_an_exported_directory_names_is_not_run(job: dict[str, Any], option: str) -> None:
    assert option in said("train", str(exported(job)), "--output", "model")
    assert not Path("model").exists()


def test_a_function_runs_if_an_option_names_it_and_its_module_is_never_from_where_the_database_says(tmp_path: Path) -> None:
    job = CustomJob(build="mine:build", python_path="/elsewhere", kwargs={"size": 1})
    here = AllowedCode(build="mine:build").checked(job, where="a.db")
    there = AllowedCode(build="code/mine:build").checked(job, where="a.db")
    assert isinstance(here, CustomJob)
    assert isinstance(there, CustomJob)
    assert (here.python_path, there.python_path) == (str(tmp_path), str(tmp_path / "code"))
    assert here.kwargs == {"size": 1}
    assert AllowedCode(build="/mine:build").checked(job, where="a.db") == job.model_copy(update={"python_path": "/"})
    assert option_for(here) == " --build mine:build"
    assert option_for(there) == " --build code/mine:build"
    for other in ("mine:other", "other.mine:build", "build", ":build", "mine:build2", ""):
        with pytest.raises(TradeoffError, match="names mine:build"):
            AllowedCode(build=other).checked(job, where="a.db")


def test_a_study_file_allows_its_own_function_with_its_own_arguments(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.yaml").write_text("job: {build: 'mine:build', kwargs: {size: 1}}")
    allowed = AllowedCode(job=load_config(tmp_path / "code" / "mine.yaml").job)
    same = CustomJob(build="mine:build", python_path="/elsewhere", kwargs={"size": 1}, epochs=9)
    checked = allowed.checked(same, where="a.db")
    assert isinstance(checked, CustomJob)
    assert (checked.python_path, checked.epochs) == (str(tmp_path / "code"), 9)
    for change in ({"kwargs": {"size": 2}}, {"kwargs": {}}, {"build": "mine:other"}):
        with pytest.raises(TradeoffError, match="code runs only if you name it yourself"):
            allowed.checked(same.model_copy(update=change), where="a.db")


def test_a_study_file_trusts_its_own_model_and_data_alone() -> None:
    job = TextClassificationJob(**HUB)
    allowed = AllowedCode(job=job)
    assert allowed.checked(job, where="a.db") == job
    assert AllowedCode(trust_remote_code=True).checked(job, where="a.db") == job
    for change in ({"model": "other/model"}, {"dataset": "other/data"}, {"dataset_config": "other"}):
        with pytest.raises(TradeoffError, match="code runs only if you trust it yourself"):
            allowed.checked(job.model_copy(update=change), where="a.db")
    distrusting = AllowedCode(job=job.model_copy(update={"trust_remote_code": False}))
    with pytest.raises(TradeoffError, match="'someone/model'"):
        distrusting.checked(job, where="a.db")


def test_a_worker_that_is_told_the_function_joins_the_study(tmp_path: Path) -> None:
    allowed = AllowedCode(build="code/pydoc:pipepager")
    run = StudyRun.of("stars", stored(PAGER), allowed=allowed, display=Display(), interrupts=Interrupts())
    assert run.config.job == CustomJob(**PAGER, python_path=str(tmp_path / "code"))


def test_a_database_that_changes_while_workers_start_makes_none_of_them_run_its_code() -> None:
    own = load_config(None, name="stars", overrides=["job.epochs=1"])
    assignment = Assignment(
        config=own.plain(), storage=stored(PAGER), creates=False, estimates_memory=False, deadline_unix_s=None, cache=None
    )
    end = work(assignment, NoServer(), display=Display(), interrupts=Interrupts())
    assert end.how == "refused"
    assert "names pydoc:pipepager" in end.reason


def test_an_export_calls_the_function_from_where_the_user_has_it(tmp_path: Path) -> None:
    storage = stored({"build": "mine:build", "python_path": "/elsewhere", "metric": "accuracy"})
    arguments = ["export", "--storage", storage, "--no-confirm", "--build", "code/mine:build", "--output", "out"]
    assert "there is no mine in" in said(*arguments)
    assert not Path("out").exists()
    Path("code").mkdir()
    Path("code/mine.py").touch()
    importlib.invalidate_caches()
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert f'sys.path.insert(0, "{tmp_path}/code")' in Path("out/train.py").read_text()
    # As one writes it in the directory above the export's.
    assert "tradeoff train THIS_DIRECTORY --output MODEL_DIRECTORY --build code/mine:build" in Path("out/README.md").read_text()
    assert "/elsewhere" not in "".join(path.read_text() for path in Path("out").iterdir())


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ([], "must hold keys and values, got list"),
        ({"job": {"build": "os.system"}}, 'job.build: build must be "module:function"'),
        ({"job": {"epochs": "x"}}, "job.epochs"),
        ({"jobs": {}}, "unknown key 'jobs'"),
        ({"space": {"attn_implementation": ["someone/kernel:attention"]}}, "attn_implementation must be one of"),
    ],
)
def test_a_stored_configuration_is_validated_as_a_study_file_is(config: Any, problem: str) -> None:
    with pytest.raises(TradeoffError, match=r"^the configuration of the study 'stars' in a\.db") as refused:
        stored_config({"config": config}, name="stars", place="a.db")
    assert problem in str(refused.value)


def test_a_stored_configuration_has_the_name_under_which_it_was_found() -> None:
    assert stored_config({"config": {"name": "other"}}, name="stars", place="a.db").name == "stars"


@pytest.mark.parametrize("command", [["worker"], ["confirm"], ["export", "--output", "out"]], ids=" ".join)
def test_a_study_file_names_its_study_too(command: list[str]) -> None:
    Path("mine.yaml").write_text("job: {build: 'mine:build'}")
    assert "no study 'mine' in sqlite:///a.db" in said(*command, "--study-file", "mine.yaml", "--storage", stored(PAGER))


def test_a_study_file_allows_no_argument_that_it_does_not_search_and_trusts_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("job: {build: 'mine:build'}\nspace: {command: [a, b], share: {low: 0.0, high: 1.0}}")
    own = load_config(tmp_path / "mine.yaml")
    allowed = AllowedCode(job=own.job, space=own.search_space())
    assert allowed.checked(own.job, where="a.db", searched={"command": ["b"], "share": [0.0, 0.5], "learning_rate": [1.0]})
    for searched in ({"command": ["c"]}, {"other": [1]}, {"share": [2.0]}):
        with pytest.raises(TradeoffError, match=next(iter(searched))):
            allowed.checked(own.job, where="a.db", searched=searched)
    job = TextClassificationJob(**HUB)
    trusting = AllowedCode(job=job)
    assert trusting.checked(job, where="a.db", searched={"dropout": [0.1]}) == job
    with pytest.raises(TradeoffError, match="'someone/model', 'another/model'"):
        trusting.checked(job, where="a.db", searched={"model": ["another/model"]})


def test_keywords_that_a_database_searches_are_named_before_they_run() -> None:
    space = {"per_device_train_batch_size": [4], "cmd": ["touch hacked"]}
    sentence = said("worker", "--storage", stored({"build": "pydoc:pipepager", "metric": "accuracy"}, space=space))
    assert "pydoc:pipepager with {'cmd': ['touch hacked']}" in sentence
