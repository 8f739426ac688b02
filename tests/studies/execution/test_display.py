import io
from typing import Any

import pytest
from rich.console import Console
from running import tiny_study
from stored_studies import params

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.execution.display import (
    Display,
    LiveDisplay,
    PlainDisplay,
    counts_line,
    describe_outcome,
    terminal_display,
)

DEVICE = {"name": "a processor"}


def completed(number: int, accuracy: float = 0.5, train_time_s: float = 2.0, peak_memory_mib: float = 30.0) -> TrialRecord:
    values = {"accuracy": accuracy, "train_time_s": train_time_s, "peak_memory_mib": peak_memory_mib}
    return TrialRecord(number=number, outcome="completed", params=params(number + 1), values=values)


def ended(number: int, outcome: Any, reason: str = "", **attributes: Any) -> TrialRecord:
    return TrialRecord(number=number, outcome=outcome, params=params(8), reason=reason, attributes=attributes)


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def view(display: LiveDisplay) -> str:
    """What a live view shows now, on a terminal of any height."""
    to = console()
    to.print(display._render())
    return written(to)


def test_a_trial_that_ended_is_a_line_with_its_place_configuration_and_values() -> None:
    to = console()
    display = PlainDisplay(to)
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trials([])
        display.trial_ended(completed(0))
    first, second = written(to).splitlines()
    assert first == "study 'tiny': 3 trials, sampler random"
    assert second.startswith("[1/3] trial 0  ")
    assert second.endswith("accuracy 0.500  train_time_s 2.00  peak_memory_mib 30")


def test_a_study_that_goes_on_counts_from_where_it_was() -> None:
    to = console()
    display = PlainDisplay(to)
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trials([completed(0), ended(1, "failed", "no")])
        display.trial_ended(completed(2))
    assert "[2/3] trial 2" in written(to)


def test_a_failure_is_shown_with_its_reason_and_does_not_count() -> None:
    to = console()
    display = PlainDisplay(to)
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trials([])
        display.trial_ended(ended(0, "failed", "ValueError: no [such] thing"))
    assert "[0/3] trial 0" in written(to)
    assert "failed: ValueError: no [such] thing" in written(to)


def test_a_skipped_trial_is_not_worth_a_line() -> None:
    to = console()
    display = PlainDisplay(to)
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        before = written(to)
        display.trial_ended(ended(0, "skipped", "too large"))
    assert written(to) == before


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (completed(0), "accuracy 0.500  train_time_s 2.00  peak_memory_mib 30"),
        (ended(0, "out_of_memory", "no room"), "out of memory: no room"),
        (ended(0, "timed_out", "too long"), "timed out: too long"),
        (
            ended(0, "probed", probe={"micro_step_time_s": 0.0125, "memory": {"peak_memory_mib": 40.4}}),
            "probed: 12.5 ms a micro-step, 40 MiB",
        ),
    ],
    ids=("completed", "out of memory", "timed out", "probed"),
)
def test_what_became_of_a_trial_is_its_values_or_its_reason(record: TrialRecord, text: str) -> None:
    assert describe_outcome(record) == text


def test_counts_are_by_outcome_and_leave_running_trials_out() -> None:
    records = [completed(0), ended(1, "out_of_memory"), completed(2), ended(3, None)]
    assert counts_line(records) == "2 completed, 1 out of memory"


def test_a_terminal_gets_a_live_view_and_a_file_gets_lines() -> None:
    assert isinstance(terminal_display(console(terminal=True)), LiveDisplay)
    assert isinstance(terminal_display(console()), PlainDisplay)


def test_a_live_view_shows_the_running_trial_its_step_the_counts_and_the_front() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trials([])
        display.trials([completed(0), ended(1, "out_of_memory", "no room")])
        display.trial_started(2, TrialParameters(per_device_train_batch_size=16))
        display.progress({"stage": "train", "step": 7, "total": 40})
        text = view(display)
    assert "tiny on a processor" in text
    assert "2 of 3 trials   1 completed, 1 out of memory" in text
    assert "trial 2" in text
    assert "train  step 7 of 40" in text
    assert "0.500" in text


def test_a_live_view_shows_no_trial_between_two() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trial_started(0, TrialParameters(per_device_train_batch_size=16))
        display.trial_ended(completed(0))
        text = view(display)
    assert "trial 0" not in text


def test_a_long_front_is_cut_in_a_live_view() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=20)):
        display.trials([completed(n, accuracy=0.1 + n / 100, train_time_s=1.0 + n) for n in range(13)])
        text = view(display)
    assert "and 3 more" in text
    assert "lowest training time" not in text  # it is one of the three


def test_a_message_with_brackets_is_printed_as_it_is() -> None:
    to = console()
    PlainDisplay(to).message("job[0] is [bold]")
    assert written(to) == "job[0] is [bold]\n"


def test_a_quiet_display_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Display().message("nobody reads this")
    assert capsys.readouterr().out == ""


def test_a_live_view_shows_the_trial_of_each_worker_until_it_ends_or_the_worker_does() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        for worker, batch in ((0, 4), (1, 8), (2, 16)):
            display.trial_started(worker + 10, TrialParameters(per_device_train_batch_size=batch), worker=worker)
        display.progress({"stage": "train", "step": 3, "total": 9}, worker=1)
        assert "trial 11  8 x 1, fp32  train  step 3 of 9" in view(display)
        display.trial_ended(completed(10), worker=0)
        display.worker_ended(2)
        assert [line.split()[1] for line in view(display).splitlines() if line.startswith("trial 1")] == ["11"]


def test_a_live_view_of_very_many_workers_stays_short() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        for worker in range(200):
            display.trial_started(worker, TrialParameters(per_device_train_batch_size=4), worker=worker)
        assert "and 190 more trials" in view(display)


@pytest.mark.parametrize(("width", "height"), [(40, 16), (40, 24), (80, 12), (80, 24)])
def test_a_live_view_breaks_no_number_and_is_no_higher_than_the_terminal(width: int, height: int) -> None:
    to = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    display = LiveDisplay(to)
    rates = {"learning_rate": 0.000312345, "attn_implementation": "flash_attention_2", "optim": "adamw_torch_fused"}
    with display.running("a study with a long name of many words", DEVICE, tiny_study(trials=4000)):
        others = [ended(20, "out_of_memory"), ended(21, "probed"), ended(22, "failed"), ended(23, "timed_out")]
        display.trials([*(completed(n, 0.1 + n / 100, 1e6 + n) for n in range(13)), *others])
        for worker in range(30):
            parameters = TrialParameters(per_device_train_batch_size=1024, **rates)
            display.trial_started(1000 + worker, parameters, worker=worker)
            display.progress({"stage": "train", "step": 12345, "total": 123456}, worker=worker)
        shown = io.StringIO()
        Console(file=shown, width=width, height=height, color_system=None).print(display._render())
    lines = shown.getvalue().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "step 12345 of 123456" in text
    for count in ("13 completed", "1 out of memory", "1 timed out", "learning rate 0.00031"):
        assert count in text


def test_a_live_view_shows_the_constant_answer_and_calls_nothing_the_knee_that_is_no_better() -> None:
    display = LiveDisplay(console(terminal=True))
    with display.running("tiny", DEVICE, tiny_study(trials=3)):
        display.trials([completed(0, accuracy=0.5, train_time_s=2.0), completed(1, accuracy=0.3, train_time_s=1.0)])
        display.baselines({"accuracy": 0.4})
        first, second = view(display).split("    1  2 x 1, fp32")
    assert "knee" in first
    assert "no better than a constant answer" in second
    assert "lowest" not in second
    assert "a constant answer: accuracy 0.400" in second


@pytest.mark.parametrize("display_class", [PlainDisplay, LiveDisplay])
def test_a_busy_machine_is_said_once(display_class: type[PlainDisplay]) -> None:
    to = console()
    display = display_class(to)
    busy = [ended(number, "probed", probe={"busy_share": 0.5}) for number in range(3)]
    for count in range(1, 4):
        display.trials(busy[:count])
    assert written(to).count("exceeded the processors") == 1
