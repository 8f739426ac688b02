"""Names, errors and files of a foreign database: every command shows them on a terminal, and none does anything to it."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console
from running import tiny_study
from stored_studies import DISTRIBUTIONS, OBJECTIVES, TRIALS, make_study, params

from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.measurements.records import TrialRecord, stored_attributes
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.execution.display import LiveDisplay, PlainDisplay
from tradeoff.studies.reporting.annotate import annotate_study
from tradeoff.studies.reporting.plot_style import plot_text
from tradeoff.studies.reporting.templating import yaml_text
from tradeoff.studies.results.tables import csv_text
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.visible import visible

# What sets a terminal's title and colour, erases its screen, turns text around, and begins a line that looks like ours.
EVIL = "e\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eab\u2066c\r\n[9/9] done <img src=x> [red]x[/red] :boom: *b* ~~s~~"
MARKUP = "m<img src=x> [red]x[/red] :boom: *b* ~~s~~"
# The only ones that rich itself makes in a command that draws nothing live: bold, dim, colours of its own, and plain again.
RICH = re.compile(r"\x1b\[(0|1|2|36)m")
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
COMMANDS = """
import json, sys
from tradeoff.studies.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["tradeoff", *arguments]
    try:
        main()
    except SystemExit:
        pass
raise KeyError(sys.argv)
"""


def shown_on_a_terminal(*commands: list[str]) -> str:
    """What commands print one after the other on a terminal; the last one ends in a traceback that holds its arguments."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "TRADEOFF_STORAGE": ""},
    )  # fmt: skip
    os.close(theirs)
    output = b""
    while True:
        try:
            output += (piece := os.read(ours, 65536))
        except OSError:  # as Linux says that nobody has the terminal any more
            break
        if not piece:
            break
    os.close(ours)
    process.wait(timeout=60)
    return output.decode()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study whose every text is hostile."""
    path = tmp_path_factory.mktemp("hostile") / "a.db"
    attributes = stored_attributes({"outcome": "failed", "stage": EVIL, "reason": EVIL, "traceback": EVIL})
    failed = optuna.trial.create_trial(
        state=TrialState.FAIL, params=params(2), distributions=DISTRIBUTIONS, user_attrs=attributes
    )
    study = make_study(open_storage(str(path)), (*TRIALS, failed), name=EVIL)
    device = DeviceInfo(kind="cpu", name=EVIL, total_memory_mib=8192.0, precisions=("fp32",), num_cpus=2)
    study.set_user_attr("device", device.as_dict())
    # A configuration with such letters is refused when it is read; markup is not.
    job = TextClassificationJob(epochs=2).model_dump(mode="json") | {"model": MARKUP, "dataset": MARKUP}
    config = {"name": "hostile", "job": job, "objectives": list(OBJECTIVES), "limits": {"peak_memory_mib": 2500}}
    study.set_user_attr("config", config)
    return str(path)


def test_no_command_sends_a_text_of_a_study_to_the_terminal_as_it_is(storage: str, tmp_path: Path) -> None:
    page, chosen = str(tmp_path / "a\x1b[31m.html"), str(tmp_path / "chosen")
    output = shown_on_a_terminal(
        *([*command, "--storage", storage] for command in (
            ["front"], ["front", "--format", "csv"], ["front", "--format", "json"], ["front", EVIL[::-1]],
            ["front", "--limit", "\x1b[31m<=1"], ["report", "--format", "md"], ["report", "--output", page],
            ["export", "--trial", "6", "--output", chosen], ["export", "--trial", "1", "--output", chosen],
            ["compare", "0", "6"], ["confirm"], ["confirm", "--trial", "0"])),
        ["no\x1b[31msuch"],
        ["front", "x", EVIL, "postgresql://ada:secret@db/s"],
    )  # fmt: skip
    for expected in ("Pareto front of e", "no study", "Report of e", "Trial 1 of e", "nothing to confirm", "KeyError"):
        assert expected in output
    assert output.count("\\x1b]0;owned\\x07\\x1b[31mred\\x9b2J\\u202eab\\u2066c\\r\\n[9/9] done <img src=x> [red]x") > 5
    assert ":boom:" in output
    assert UNSEEN.findall(RICH.sub("", output)) == []
    assert not re.search(r"^\[9/9\]", output, re.MULTILINE)
    assert "secret" not in output
    files = [Path(page), *Path(chosen).iterdir()]
    assert len(files) > 5
    for file in files:
        # The page holds plotly's own code, in which there are such letters.
        text = re.sub(r"<script>.*?</script>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert UNSEEN.findall(text) == [], file
        assert not re.search(r"^\[9/9\]", text, re.MULTILINE) or file == Path(page)


def test_the_notes_and_plots_in_the_dashboard_show_the_texts_of_a_study(storage: str) -> None:
    study = load_study(None, open_storage(storage))
    annotate_study(study)
    kept = study.storage.get_study_system_attrs(study.study_id)
    notes = [text for key, text in kept.items() if key.startswith("dashboard:") and isinstance(text, str)]
    assert any("\\\\x1b" in note for note in notes)
    assert [UNSEEN.findall(note) for note in notes if UNSEEN.search(note)] == []


@pytest.mark.parametrize("is_live", [False, True])
def test_a_running_study_shows_what_its_trials_say(is_live: bool) -> None:
    to = Console(file=io.StringIO(), force_terminal=False, width=200, color_system=None)
    display = LiveDisplay(to) if is_live else PlainDisplay(to)
    assert isinstance(to.file, io.StringIO)
    parameters = TrialParameters(per_device_train_batch_size=2)
    shown = parameters.as_dict() | {"optim": EVIL}
    with display.running(EVIL, {"name": EVIL}, tiny_study(trials=3)):
        display.message(f"{EVIL} postgresql://ada:secret@db/s")
        display.trial_started(0, parameters)
        display.progress({"stage": EVIL})
        values = {"accuracy": 0.5, "train_time_s": 2.0, "peak_memory_mib": 30.0}
        display.trials([TrialRecord(number=0, outcome="completed", params=shown, values=values)])
        if isinstance(display, LiveDisplay):
            to.print(display._render())
        else:
            display.trial_ended(TrialRecord(number=0, outcome="failed", params=shown, reason=EVIL))
    text = to.file.getvalue()
    assert text.count("\\x1b]0;owned") >= 3
    assert ":boom:" in text
    assert "secret" not in text
    assert UNSEEN.findall(text) == []
    assert not re.search(r"^\[9/9\]", text, re.MULTILINE)


def test_letters_that_can_be_seen_stay_as_they_are() -> None:
    assert visible(text := "é 名前 עברית 👩‍🔬 می‌خواهم a\\b 'q'") == text
    assert visible("a\n\tb\x7f\u2028\udcff", keep="\n") == "a\n\\tb\\x7f\\u2028\\udcff"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\uff1d1"])
def test_no_text_is_a_formula_in_a_spreadsheet(text: str) -> None:
    ((cell, number),) = csv.reader(io.StringIO(csv_text([[text, -1.5]])))
    assert cell == "'" + visible(text)
    assert number == "-1.5"


def test_no_text_is_markup_or_a_value_in_a_plot() -> None:
    assert plot_text("<b>%{x}\x1b&") == "&lt;b&gt;%&#123;x}\\x1b&amp;"


def test_yaml_holds_readable_letters_and_escapes_of_those_that_cannot_be_seen() -> None:
    assert yaml_text({"a": "名前"}) == "a: 名前\n"
    assert UNSEEN.findall(yaml_text({"a": EVIL})) == []
