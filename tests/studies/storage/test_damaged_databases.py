"""A study's database that was damaged by hand: an answer that is right, or one sentence that names the database."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import simulated_runner as simulated

from tradeoff.objectives.job.jobs import CustomJob, register_goals
from tradeoff.studies.cli.main import app
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.annotate import annotate_study
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.stored_shapes import check_measurements
from tradeoff.studies.workers import run as runner

DEEP, LONG = "[" * 20_000, '"' + "x" * 10_000_000 + '"'
Damage = Callable[[Path], None]


def resume(path: Path, trials: int = 3) -> None:
    space = {"per_device_train_batch_size": [2, 4, 64], "gradient_accumulation_steps": 1, "precision": "fp32"}
    settings = {
        "job": simulated.JOB.model_dump(),
        "space": space,
        "memory_estimate": "off",
        "sampler_seed": 0,
        "trials": trials,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
        runner.run_study(StudyConfig.model_validate({"name": "tiny", **settings}), storage=str(path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "studies.db"
    resume(path)
    sql("PRAGMA wal_checkpoint(TRUNCATE)")(path)
    return path


@pytest.fixture
def database(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path / "studies.db"))


def sql(*statements: str) -> Damage:
    def damage(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return damage


def study(name: str, text: str) -> Damage:
    return sql(f"UPDATE study_user_attributes SET value_json='{text}' WHERE key='{name}'")


def trial(name: str, text: str) -> Damage:
    return sql(f"UPDATE trial_user_attributes SET value_json='{text}' WHERE key='{name}'")


def measured(path: str, value: str) -> Damage:
    part = path.partition(".")[0]
    return sql(
        f"UPDATE trial_user_attributes SET value_json=json_set(value_json, '$.{path}', {value}) WHERE key='measurements'"
        f" AND json_extract(value_json, '$.{part}') IS NOT NULL"
    )


def distribution(text: str) -> Damage:
    return sql(f"UPDATE trial_params SET distribution_json='{text}' WHERE param_name='per_device_train_batch_size'")


def choices(text: str) -> Damage:
    return distribution(f'{{"name": "CategoricalDistribution", "attributes": {{"choices": {text}}}}}')


def bytes_of(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def another(statement: str) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        sql(statement)(path)

    return damage


def plain_optuna(path: Path) -> None:
    path.unlink()
    optuna.create_study(storage=f"sqlite:///{path}", study_name="plain").optimize(
        lambda t: t.suggest_float("x", 0, 1), n_trials=1
    )


# What nothing can be read from.
REFUSED: dict[str, Damage] = {
    **{
        f"no table {name}": sql(f"DROP TABLE {name}") for name in ("studies", "study_user_attributes", "trials", "trial_params")
    },
    **{f"no table {name}": sql(f"DROP TABLE {name}") for name in ("trial_user_attributes", "trial_system_attributes")},
    "no column state": sql("ALTER TABLE trials RENAME COLUMN state TO gone"),
    "no column value_json": sql("ALTER TABLE trial_user_attributes RENAME COLUMN value_json TO gone"),
    "no studies": sql("DELETE FROM studies"),
    "configuration: nested": study("config", DEEP),
    "configuration: half": study("config", '{"name": "ti'),
    "configuration: list": study("config", "[1]"),
    "configuration: another program's": study("config", '{"lr": 1}'),
    "configuration: long text": study("config", LONG),
    "configuration: NaN": study("config", "NaN"),
    "device: text": study("device", '"gpu"'),
    "device: no name": sql("UPDATE study_user_attributes SET value_json=json_remove(value_json, '$.name') WHERE key='device'"),
    "device: unknown kind": sql(
        "UPDATE study_user_attributes SET value_json=json_set(value_json, '$.kind', 'abacus') WHERE key='device'"
    ),
    "device: missing": sql("DELETE FROM study_user_attributes WHERE key='device'"),
    "baselines: text": study("baselines", '{"accuracy": "high"}'),
    "untrained: numbers": study("untrained", "[1]"),
    "found: numbers": sql("INSERT INTO study_user_attributes(study_id, key, value_json) VALUES (1, 'found_changes', '[1]')"),
    "found: words": sql(
        "INSERT INTO study_user_attributes(study_id, key, value_json)"
        """ VALUES (1, 'found_changes', '{"x": {"changes": ["money"], "told": null, "trials": [1, 2], "unclear": []}}')"""
    ),
    "schema of an earlier release": study("tradeoff_schema", "1"),
    "schema of a later release": study("tradeoff_schema", "9"),
    "schema: text": study("tradeoff_schema", '"new"'),
    "trials: none, and their parameters": sql("DELETE FROM trials"),
    "number: missing": sql("DELETE FROM trials WHERE number=2"),
    "number: twice": sql("UPDATE trials SET number=1 WHERE number=2"),
    "number: null": sql("UPDATE trials SET number=NULL WHERE number=2"),
    "state: unknown": sql("UPDATE trials SET state='DONE' WHERE number=2"),
    "date: text": sql("UPDATE trials SET datetime_start='yesterday'"),
    "date: null": sql("UPDATE trials SET datetime_complete=NULL"),
    "values: none": sql("DELETE FROM trial_values"),
    "values: one of three": sql("DELETE FROM trial_values WHERE objective > 0"),
    "values: text": sql("UPDATE trial_values SET value='much'"),
    "values: infinite": sql("UPDATE trial_values SET value=NULL, value_type='INF_POS'"),
    "values: a fourth objective": sql("UPDATE trial_values SET objective=9 WHERE objective=2"),
    "distribution: nested": distribution(DEEP),
    "distribution: unknown": distribution('{"name": "Strange", "attributes": {}}'),
    "distribution: no attributes": distribution('{"name": "CategoricalDistribution"}'),
    "distribution: number": distribution("5"),
    "choices: lists": choices("[[1], [2], [3]]"),
    "choices: none": choices("[]"),
    "choices: texts": choices('["few", "some", "many"]'),
    "choices: negative": choices("[-1, -2, -3]"),
    "parameter: index": sql("UPDATE trial_params SET param_value=99"),
    "parameter: null": sql("UPDATE trial_params SET param_value=NULL"),
    "parameter: another name": sql("UPDATE trial_params SET param_name='strange' WHERE param_name='precision'"),
    "outcome: unknown": trial("outcome", '"lucky"'),
    "outcome: list": trial("outcome", "[]"),
    "reason: number": trial("reason", "5"),
    "measurements: nested": trial("measurements", DEEP),
    "measurements: list": trial("measurements", "[1]"),
    "measurements: long text": trial("measurements", LONG),
    "measurements: missing": sql("DELETE FROM trial_user_attributes WHERE key='measurements'"),
    "sources: numbers": trial("sources", '{"accuracy": 5}'),
    "publishes: text": trial("publishes", '"all"'),
    "probe: list": measured("probe", "json('[1]')"),
    "probe: empty": measured("probe", "json('{}')"),
    "probe: 1e400": measured("probe.micro_step_time_s", "9e999"),
    "probe: negative time": measured("probe.optimizer_step_time_s", "-1"),
    "training: text": measured("training.curve", "'steep'"),
    "training: no samples": measured("training.num_samples", "0"),
    "time: text": measured("train_time_s", "'long'"),
    "time: 400 digits": measured("train_time_s", "json('1" + "0" * 400 + "')"),
    "memory: list": measured("peak_memory_mib", "json('[1]')"),
    "plan: list": sql("UPDATE trial_system_attributes SET value_json='[1]' WHERE key='tradeoff:plan'"),
    "owner: text": sql("UPDATE trial_system_attributes SET value_json='\"me\"' WHERE key='tradeoff:owner'"),
    "objectives: a fourth": sql("INSERT INTO study_directions(study_id, objective, direction) VALUES (1, 3, 'MINIMIZE')"),
    "file: cut": bytes_of(lambda data: data[: len(data) // 2]),
    "file: empty": bytes_of(lambda data: b""),
    "file: text": bytes_of(lambda data: b"Dear database,\n" * 1000),
    "file: half of its pages are garbage": bytes_of(lambda data: data[:8192] + b"\xa5" * (len(data) - 8192)),
    "database of another program": another("CREATE TABLE notes(text)"),
    "database of plain Optuna": plain_optuna,
}
# As if nothing had run yet, to those who only read.
EMPTY = ("trials: none, and their parameters",)
# A run creates what these lack.
MADE_ANEW = ("no table studies", "no studies", "file: empty", "database of another program", "database of plain Optuna")
# What does not matter.
READ: dict[str, Damage] = {
    "versions: missing": sql("DELETE FROM study_user_attributes WHERE key='versions'"),
    "attributes of another program": sql(
        "INSERT INTO study_user_attributes(study_id, key, value_json) VALUES (1, 'mine', '[[1]]')",
        "INSERT INTO trial_user_attributes(trial_id, key, value_json) VALUES (1, 'mine', '{\"a\": [\"b\"]}')",
    ),
    "notes of another program": sql("UPDATE study_system_attributes SET value_json='[5]' WHERE key LIKE 'dashboard:%'"),
    "study of another program": sql(
        "INSERT INTO studies(study_id, study_name) VALUES (7, 'theirs')",
        "INSERT INTO study_user_attributes(study_id, key, value_json) VALUES (7, 'x', '1')",
    ),
    "values without a trial": sql(
        "INSERT INTO trial_values(trial_id, objective, value, value_type) VALUES (99, 0, 1, 'FINITE')"
    ),
    "ended by another program": sql("UPDATE trials SET state='FAIL' WHERE number=2"),
    "time of 0": measured("train_time_s", "0"),
    "loss that is NaN": sql(
        "UPDATE trial_user_attributes SET value_json=replace(value_json, '\"train_loss\": 1.0', '\"train_loss\": NaN')"
    ),
}  # fmt: skip


def front(path: Path) -> None:
    app(["front", "--storage", str(path), "--format", "json"], standalone_mode=False)


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_database_is_one_sentence_that_names_it(database: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    REFUSED[damage](database)
    for command in (front, resume) if damage not in EMPTY else (resume,):
        if command is resume and damage in MADE_ANEW:
            continue
        with pytest.raises(TradeoffError) as refused:
            command(database)
        sentence = str(refused.value)
        assert "tiny" in sentence or str(database) in sentence
        assert len(sentence) < 700
        assert "\n" not in sentence


@pytest.mark.parametrize("damage", READ)
def test_what_another_program_has_written_beside_it_is_left_alone(database: Path, damage: str):
    READ[damage](database)
    front(database)
    annotate_study(load_study(None, open_storage(str(database))))
    resume(database, trials=3)


@pytest.mark.parametrize("damage", ["configuration: half", "measurements: nested", "values: text", "no table trials"])
def test_every_command_that_reads_refuses_it(database: Path, damage: str, tmp_path: Path):
    REFUSED[damage](database)
    commands = (
        ["report"],
        ["export", "--output", str(tmp_path / "best")],
        ["compare", "0", "1"],
        ["confirm"],
    )
    for command in commands:
        with pytest.raises(TradeoffError, match=r"damaged|can't be read"):
            app([*command, "--storage", str(database)], standalone_mode=False)


def test_a_metric_of_the_users_own_may_have_any_name_and_any_value() -> None:
    register_goals(CustomJob.model_validate({"build": "mine:build", "metric": "gain_s", "direction": "minimize"}))
    check_measurements({"eval_gain_s": -5.0})
    check_measurements({"eval_gain_s": float("inf")})
    for value in (-5.0, float("inf"), 10**400):
        with pytest.raises(ValueError, match="train_time_s must be"):
            check_measurements({"train_time_s": value})
