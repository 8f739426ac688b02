"""The table of every command on terminals of any width, and without a terminal."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from exported_studies import made_up
from rich.console import Console
from stored_studies import OBJECTIVES, params, record

from tradeoff.objectives.memory_estimator.run_estimate import RunEstimate
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.cli import compare, sweep
from tradeoff.studies.cli.confirm import confirmations_table
from tradeoff.studies.cli.fit import fit_table
from tradeoff.studies.cli.plan_tables import estimates_table, fits_by_gpu, frontier_table, gpus_table
from tradeoff.studies.cli.train import _progress
from tradeoff.studies.config.published_tables import TABLES
from tradeoff.studies.execution.confirm import Confirmation
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.execution.fit import Fit
from tradeoff.studies.execution.sweep import sweep_config, sweep_rows
from tradeoff.studies.results.compare import compare_studies, compare_trials
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.tables import front_table

# A value of every knob.
LONG = params(4096, 64, checkpointing=True, precision="bf16") | {
    "learning_rate": 0.000312345,
    "warmup_ratio": 0.123456,
    "dataloader_num_workers": 16,
    "dataloader_pin_memory": True,
    "optim": "adamw_torch_fused",
    "padding": "max_length",
    "train_sampling_strategy": "group_by_length",
    "attn_implementation": "flash_attention_2",
    "torch_compile": True,
}
RECORDS = (
    record(100, (0.87654, 123456.78, 78123.4), LONG, accuracy_std=0.01234, num_seeds=3, samples_per_s=1234.5),
    record(101, (0.81, 9876.5, 81234.5), params(8), samples_per_s=0.25),
    record(102, (0.80, 12.5, 81934.5), LONG | {"learning_rate": 1e-05}, derived_from=100),
)
ESTIMATES = [
    RunEstimate(
        parameters=TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=64),
        peak_memory_mib=23456.7,
        lower_bound_mib=22345.6,
        upper_bound_mib=24567.8,
        fits=True,
        fails_at=None,
        parts=dict.fromkeys(("context", "weights", "gradients", "optimizer", "activations", "workspace", "retained"), 12345.6),
    )
    for batch in (1024, 2048)
]
FIT = Fit(
    parameters=TrialParameters(**LONG),
    batch=4096,
    peak_memory_mib=78123.4,
    samples_per_s=12345.0,
    next_needs_mib=79123.4,
    num_probes=12,
    elapsed_s=1234.5,
    failure="ValueError: the attention flash_attention_2 is not there",
)
RESULTS = made_up(*RECORDS)
SWEEP = sweep_rows(
    RESULTS, sweep_config(None, preset="lecture-batch-size", embedded=False), TABLES["lecture-batch-size"].published
)
TABLES_SHOWN: Mapping[str, FittedTable] = {
    "front": front_table(judged_front(RESULTS), title="Pareto front of a study", caption=RESULTS.summary()),
    "compare trials": compare.as_table(compare_trials(RESULTS, 100, 101)),
    "compare studies": compare.as_table(compare_studies(RESULTS, made_up(RECORDS[1]))),
    "confirm": confirmations_table([Confirmation(claimed=RECORDS[2], measured=RECORDS[0])], OBJECTIVES),
    "fit": fit_table([FIT], 81920.0),
    "plan": estimates_table(ESTIMATES),
    "plan --frontier": frontier_table({each.parameters: each for each in ESTIMATES}, 24576.0),
    "plan --devices": gpus_table(fits_by_gpu(ESTIMATES)),
    "sweep": sweep.as_table(SWEEP, title="Reviews, by batch size", notes=["measured on a processor"]),
}


def printed(what: Any, *, width: int, terminal: bool) -> list[str]:
    to = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    PlainDisplay(to).show(what)
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 40, 80, 200])
@pytest.mark.parametrize("name", TABLES_SHOWN)
def test_a_table_loses_neither_a_digit_nor_a_word_on_a_terminal(name: str, width: int) -> None:
    table = TABLES_SHOWN[name]
    lines = printed(table, width=width, terminal=True)
    words = " ".join(lines).split()
    shown = [word for row in table.rows for cell in row for word in cell.split()]
    assert shown
    assert [word for word in shown if shown.count(word) > words.count(word)] == []
    assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []
    assert "…" not in " ".join(words)


@pytest.mark.parametrize("name", TABLES_SHOWN)
def test_in_a_pipe_and_in_a_log_a_row_is_one_line(name: str) -> None:
    table = TABLES_SHOWN[name]
    lines = [" ".join(line.split()) for line in printed(table, width=80, terminal=False)]
    for row in table.rows:
        assert " ".join(" ".join(row).split()) in lines


def test_a_rate_has_two_significant_digits() -> None:
    first, _, third = TABLES_SHOWN["front"].rows
    assert "learning rate 0.00031, warm-up 0.12, " in first[1]
    assert "learning rate 1e-05, " in third[1]


@pytest.mark.parametrize("width", [40, 80])
def test_the_progress_of_a_training_has_every_digit(width: int) -> None:
    to = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with _progress(to, lambda _: None) as show:
        show({"stage": "train", "step": 123456, "total": 1234567})
    assert isinstance(to.file, io.StringIO)
    assert "123456/1234567" in to.file.getvalue()
