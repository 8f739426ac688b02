import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stored_studies import completed, make_study, out_of_memory, params
from typer.testing import CliRunner, Result

from tradeoff.studies.cli import main as cli
from tradeoff.studies.cli.run import show_end
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.results.results import BASELINES
from tradeoff.studies.storage.opening import load_study, open_storage

COMMANDS = tuple(cli.COMMANDS)
# What takes seconds to import, or is needed by no answer about a stored study.
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "pandas",
    "plotly",
    "sklearn",
    "scipy",
    "optuna_dashboard",
)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("TRADEOFF_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/a.db"
    make_study(open_storage(url))
    return url


def ask(*arguments: str) -> Result:
    """What the command answers; an error of the user's is left to be looked at."""
    return CliRunner().invoke(cli.app, list(arguments))


def process(
    *arguments: str, code: str = "from tradeoff.studies.cli.main import main; main()"
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRADEOFF_STORAGE"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_the_front_as_json_has_parameters_values_and_sources(storage: str) -> None:
    rows = json.loads(ask("front", "stars", "--storage", storage, "--format", "json").stdout)
    assert [row["trial"] for row in rows] == [0, 1, 2, 4]
    assert rows[1] == {
        "trial": 1,
        "params": params(16),
        "accuracy": 0.79,
        "train_time_s": 20.0,
        "peak_memory_mib": 1000.0,
        "sources": {"accuracy": "measured", "train_time_s": "measured", "peak_memory_mib": "measured"},
        "measured": {},
        "marks": ["knee"],
        "baselines": {},
        "not_better_than_constant": False,
        "within_error_of": None,
        "equal_within_error": [],
    }
    assert rows[0]["marks"] == ["highest accuracy"]


def test_the_front_as_csv_has_one_line_a_trial_under_full_names(storage: str) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("front", "--storage", storage, "--format", "csv").stdout)))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "4"]
    assert rows[3]["gradient_accumulation_steps"] == "2"
    assert rows[3]["peak_memory_mib"] == "500.0"
    assert rows[3]["accuracy_source"] == "measured"


def test_the_front_as_a_table_is_complete_in_a_pipe(storage: str) -> None:
    lines = ask("front", "--storage", storage).stdout.splitlines()
    assert lines[0].strip() == "Pareto front of stars on Test CPU"
    row = next(line for line in lines if "knee" in line)
    assert row.split() == ["1", "16", "x", "1,", "fp32", "0.790", "20.00", "1,000", "knee"]
    assert "6 trials: 5 completed, 1 out of memory" in lines[-1]


def beaten(folder: Path, accuracy: float) -> str:
    """The study's storage, where a constant answer has this accuracy."""
    url = str(folder / "beaten.db")
    make_study(open_storage(url)).set_user_attr(BASELINES, {"accuracy": accuracy})
    return url


def test_the_spreads_of_a_csv_are_in_the_order_of_the_objectives_whichever_trial_has_them(tmp_path: Path) -> None:
    url = str(tmp_path / "a.db")
    timed = completed((0.9, 40.0, 900.0), params(8), train_time_s_std=1.5)
    repeated = completed((0.8, 20.0, 900.0), params(16), accuracy_std=0.02, num_seeds=3)
    make_study(open_storage(url), (timed, repeated))
    header = ask("front", "--storage", url, "--format", "csv").stdout.splitlines()[0].split(",")
    assert header[-3:] == ["num_seeds", "accuracy_std", "train_time_s_std"]


def test_a_constant_answer_and_what_is_no_better_stand_in_every_form_of_the_front(tmp_path: Path) -> None:
    url = beaten(tmp_path, 0.75)
    table = ask("front", "--storage", url).stdout
    assert "a constant answer: accuracy 0.750" in table
    marked = [line.split()[0] for line in table.splitlines() if "no better than a constant answer" in line]
    assert marked == ["2", "4"]
    rows = {row["trial"]: row for row in json.loads(ask("front", "--storage", url, "--format", "json").stdout)}
    assert rows[0]["baselines"] == {"accuracy": 0.75}
    assert [number for number, row in rows.items() if row["not_better_than_constant"]] == [2, 4]
    assert not {"knee", "lowest peak memory"} & {*rows[2]["marks"], *rows[4]["marks"]}
    lines = csv.DictReader(io.StringIO(ask("front", "--storage", url, "--format", "csv").stdout))
    assert [line["trial"] for line in lines if line["not_better_than_constant"] == "True"] == ["2", "4"]


def test_a_front_with_nothing_better_than_a_constant_answer_says_so_above_its_table(tmp_path: Path) -> None:
    url = beaten(tmp_path, 0.9)
    sentence = "No configuration is clearly better than a constant answer (accuracy 0.900); what usually helps: more epochs"
    table = ask("front", "--storage", url).stdout
    assert table.splitlines()[1].startswith(sentence)
    assert "knee" not in table
    answer = ask("front", "--storage", url, "--format", "json")
    assert len(json.loads(answer.stdout)) == 4
    assert answer.stderr.startswith(sentence)


def test_the_end_of_a_run_with_nothing_better_than_a_constant_answer_recommends_no_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, accuracy, recommends in (("a", 0.9, False), ("b", 0.75, True)):
        (tmp_path / folder).mkdir()
        url = beaten(tmp_path / folder, accuracy)
        device = {"kind": "cpu", "name": "Test CPU", "precisions": ["fp32"], "total_memory_mib": 8192.0}
        load_study("stars", open_storage(url)).set_user_attr("device", device)
        show_end("stars", url, PlainDisplay())
        text = capsys.readouterr().out
        assert f"a constant answer: accuracy {accuracy:.3f}" in text
        assert ("what usually helps" in text) is not recommends
        assert ("tradeoff export stars" in text) is recommends


def test_values_from_elsewhere_are_marked_in_the_table(tmp_path: Path) -> None:
    derived = completed((0.8, 4.0, 9.0), params(8), derived_from=3, accuracy_source="trained in trial 3")
    make_study(open_storage(str(tmp_path / "a.db")), (derived,))
    text = ask("front", "--storage", str(tmp_path / "a.db")).stdout
    assert "0.800~" in text
    assert "4.00~" not in text
    assert "~ measured by another trial or a probe" in text


def test_a_front_with_nothing_finished_says_why_and_is_no_error(tmp_path: Path) -> None:
    url = str(tmp_path / "a.db")
    make_study(open_storage(url), (out_of_memory(params(64)), out_of_memory(params(32))))
    table = ask("front", "--storage", url)
    assert table.exit_code == 0
    assert table.stdout == "The front of stars is empty: no trial has completed (2 trials: 2 out of memory).\n"
    assert json.loads(ask("front", "--storage", url, "--format", "json").stdout) == []
    assert ask("front", "--storage", url, "--format", "csv").stdout.startswith("trial,")


def test_front_and_export_choose_alike(storage: str, tmp_path: Path) -> None:
    asked = ["--storage", storage, "--limit", "peak_memory_mib<1000", "--minimize", "train_time_s"]
    assert [row["trial"] for row in json.loads(ask("front", *asked, "--format", "json").stdout)] == [0]
    exported = ask("export", *asked, "--output", str(tmp_path / "chosen"))
    assert exported.exit_code == 0
    assert exported.stdout.splitlines()[0] == "Trial 0 of stars: the smallest train_time_s on the front."
    assert json.loads((tmp_path / "chosen" / "training_args.json").read_text())["per_device_train_batch_size"] == 8


def test_an_export_without_a_choice_is_the_knee(storage: str, tmp_path: Path) -> None:
    assert ask("export", "--storage", storage, "-o", str(tmp_path / "chosen")).stdout.startswith("Trial 1 of stars: the knee")


def test_the_storage_can_come_from_the_environment(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEOFF_STORAGE", storage)
    assert len(json.loads(ask("front", "--format", "json").stdout)) == 4


def test_the_storage_is_tradeoff_db_in_the_working_folder_by_default(storage: str) -> None:
    make_study(open_storage("sqlite:///tradeoff.db"), (), name="here")
    assert "The front of here is empty" in ask("front").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["front", "moons"], r"no study 'moons' in .*; there are stars"),
        (["front", "--limit", "memory"], "a limit must be written like"),
        (["front", "--limit", "peak_memory_mib<=1"], "no configuration satisfies peak_memory_mib<=1; the nearest is trial 4"),
        (["front", "--knee", "--maximize", "accuracy"], "only one way to choose can be given, got --knee and --maximize"),
        (["export", "--trial", "5", "--output", "chosen"], "a chosen trial must have completed, and trial 5 is out of memory"),
        (["export", "--maximize", "speed", "--output", "chosen"], "speed is not a measurement of any trial"),
        (["export", "--output", "."], "--output must be a new or empty directory"),
        (["dashboard", "--host", "0.0.0.0"], "add --allow-remote"),
    ],
)
def test_a_bad_request_is_one_sentence_and_writes_nothing(storage: str, arguments: list[str], sentence: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(TradeoffError, match=sentence) as caught:
        CliRunner().invoke(cli.app, [*arguments, "--storage", storage], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert sorted(Path().iterdir()) == before


def test_a_users_error_is_printed_without_a_traceback_and_ends_with_2(tmp_path: Path) -> None:
    ended = process("front", "--storage", str(tmp_path / "a.db"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"tradeoff: no storage {tmp_path}/a.db: `tradeoff run` creates one; use --storage to name another database\n"
    )


def test_a_bug_keeps_its_traceback_and_ends_with_1() -> None:
    code = (
        "from tradeoff.studies.cli import main as cli\n@cli.app.command()\ndef broken(): raise ValueError('a bug')\ncli.main()"
    )
    ended = process("broken", code=code)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("ValueError: a bug\n")


def test_an_unknown_option_ends_with_2() -> None:
    assert ask("front", "--bogus").exit_code == 2


def test_the_version_is_that_of_the_distribution() -> None:
    assert ask("--version").stdout == "tradeoff 0.1.0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    text = ask(command, "--help").stdout
    assert f"  Example:\n    tradeoff {command}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_an_example_exists(command: str) -> None:
    text = ask(command, "--help").stdout
    example = text.split("  Example:\n")[1].split("\n\n")[0]
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", "\n".join(line.split("#")[0] for line in example.splitlines())))
    assert options <= set(re.findall(r"--[a-z-]+", text.replace(example, "")))


def imported(*arguments: str) -> set[str]:
    """The top-level modules that the command imports."""
    code = (
        "import sys\nfrom tradeoff.studies.cli.main import app\napp(standalone_mode=False)\n"
        "print('modules', *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    ended = process(*arguments, code=code)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.splitlines()[-1].split()[1:])


def test_the_front_imports_nothing_heavy(storage: str) -> None:
    for output_format in ("table", "json"):
        assert imported("front", "--storage", storage, "--format", output_format).isdisjoint(HEAVY)


def test_an_export_imports_nothing_heavy(storage: str, tmp_path: Path) -> None:
    assert imported("export", "--storage", storage, "-o", str(tmp_path / "chosen")).isdisjoint(HEAVY)


def test_the_help_imports_neither_optuna_nor_a_database() -> None:
    modules = process("-X", code="import sys, tradeoff.studies.cli.main; print(*sys.modules)").stdout.split()
    assert {"optuna", "sqlalchemy", "pydantic", "numpy", "torch"}.isdisjoint(modules)


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e999", "-1", "soon", ""])
def test_a_timeout_that_never_passes_is_refused(storage: str, seconds: str) -> None:
    for command in ("run", "worker"):
        result = CliRunner().invoke(cli.app, [command, "--timeout", seconds])
        assert result.exit_code == 2
        assert f"it must be a finite number of seconds, at least 0, got {seconds!r}" in " ".join(result.output.split())
