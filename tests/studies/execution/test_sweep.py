"""Grids as studies of their own, and their lines beside published ones."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from exported_studies import made_up
from stored_studies import params, record
from typer.testing import CliRunner

from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.cli import main as cli
from tradeoff.studies.cli.sweep import as_csv, as_markdown
from tradeoff.studies.config.published_tables import ACCUMULATION, BATCH_SIZE, CARD_MEMORY_MIB, TABLES, YELP
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.sweep import SweepRow, sweep_config, sweep_rows
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import load_study, open_storage


def rows_of(*records: TrialRecord, preset: str = "lecture-batch-size") -> list[SweepRow]:
    config = sweep_config(None, preset=preset, embedded=False)
    return sweep_rows(made_up(*records), config, TABLES[preset].published)


def ended(number: int, outcome: Any, configuration: dict[str, Any], reason: str = "") -> TrialRecord:
    return TrialRecord(number=number, outcome=outcome, params=configuration, reason=reason)


@pytest.mark.parametrize("table", [BATCH_SIZE, ACCUMULATION])
def test_published_figures_agree_with_each_other(table: Any) -> None:
    for line in table.values():
        if not line.out_of_memory:
            # 512 samples in one epoch; utilisation is the share of the card's memory.
            assert 512 / line.train_time_s == pytest.approx(line.samples_per_s, abs=0.012)
            assert 100 * line.peak_memory_mib / CARD_MEMORY_MIB == pytest.approx(line.memory_utilization_percent, abs=0.06)


def test_published_yelp_speeds_are_of_three_epochs_of_a_thousand_reviews() -> None:
    for line in YELP.values():
        assert line.train_time_s is not None
        assert 3 * 1000 / line.train_time_s == pytest.approx(line.samples_per_s, abs=0.02)


@pytest.mark.parametrize("preset", ["lecture-batch-size", "lecture-accumulation", "lecture-yelp"])
def test_a_presets_grid_is_exactly_the_published_table(preset: str) -> None:
    config = sweep_config(None, preset=preset, embedded=False)
    grid = [(p.per_device_train_batch_size, p.gradient_accumulation_steps) for p in config.search_space().grid()]
    assert grid == list(TABLES[preset].published)
    assert config.limits.peak_memory_mib == 7611
    assert config.trials == len(grid)
    assert (config.job.model, config.job.max_length) == ("bert-base-uncased", 512)


def test_presets_train_on_what_the_lecture_trained_on() -> None:
    dummy = sweep_config(None, preset="lecture-batch-size", embedded=False).job
    assert (dummy.dataset, dummy.train_samples, dummy.epochs) == (RANDOM_TOKENS, 512, 1)
    yelp = sweep_config(None, preset="lecture-yelp", embedded=False).job
    assert (yelp.train_samples, yelp.eval_samples, yelp.data_seed, yelp.epochs) == (1000, 1000, 42, 3)


@pytest.mark.parametrize("preset", TABLES)
def test_every_preset_runs_on_the_embedded_job_with_as_many_lines(preset: str) -> None:
    own, embedded = (sweep_config(None, preset=preset, embedded=flag) for flag in (False, True))
    assert embedded.trials == own.trials
    assert (embedded.job.model, embedded.job.dataset, embedded.job.epochs) == (EMBEDDED, EMBEDDED, own.job.epochs)
    assert "accuracy" in embedded.objectives
    assert embedded.name == f"sweep-{preset}-embedded"


def test_a_sweep_measures_every_line_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "space: {per_device_train_batch_size: [8, 16], gradient_accumulation_steps: [1, 2], precision: fp32,"
        " gradient_checkpointing: false}\ntrials: 3\nsampler: tpe\n"
    )
    config = sweep_config(tmp_path / "mine.yaml", preset=None, embedded=False, overrides=["job.epochs=1"])
    assert (config.sampler, config.reuse, config.trials) == ("grid", "off", 4)
    assert (config.name, config.job.epochs) == ("sweep-mine", 1)
    assert sweep_config(tmp_path / "mine.yaml", preset=None, embedded=False, name="again").name == "again"


def test_what_is_no_grid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("space: {learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}\n")
    with pytest.raises(TradeoffError, match="needs a list of values for every parameter"):
        sweep_config(tmp_path / "mine.yaml", preset=None, embedded=False)
    with pytest.raises(TradeoffError, match="give a study file or a --preset"):
        sweep_config(None, preset=None, embedded=False)
    with pytest.raises(TradeoffError, match=r"--preset must be one of lecture-batch-size, .*got 'embedded'"):
        sweep_config(None, preset="embedded", embedded=False)
    with pytest.raises(TradeoffError, match="--job embedded requires --preset"):
        sweep_config(tmp_path / "mine.yaml", preset=None, embedded=True)


MEASURED = record(0, (0.5, 40.0, 3805.5), params(4), samples_per_s=12.8, training={"train_loss": 0.25})


def test_a_line_stands_beside_its_published_one_with_utilisation_as_the_share_of_the_budget() -> None:
    lines = as_markdown(rows_of(MEASURED)).splitlines()
    assert lines[0] == (
        "| batch | accumulation | time s | samples/s | memory MiB | utilisation % | loss | accuracy |"
        " published time s | published samples/s | published memory MiB | published utilisation % |"
    )
    assert lines[4] == (
        "| 4 | 1 | 40.00 | 12.80 | 3,806 | 50.0 | 0.250 | 0.500 | 72.18 | 7.09 | 4,613 | 60.6 |"
    )  # fmt: skip


def test_lines_out_of_memory_and_not_tried_say_so_on_both_sides() -> None:
    failed = ended(3, "failed", params(2), reason="ValueError: no")
    lines = as_markdown(rows_of(MEASURED, ended(1, "out_of_memory", params(8)), failed)).splitlines()
    assert lines[2].startswith("| 1 | 1 | not tried |")
    assert lines[3].startswith("| 2 | 1 | failed |")
    assert lines[5].startswith("| 8 | 1 | out of memory |  |  |  |  |  | 66.70 |")
    assert lines[6] == "| 9 | 1 | not tried |  |  |  |  |  | out of memory |  |  |  |"


def test_a_configuration_skipped_because_a_smaller_one_did_not_fit_is_out_of_memory_too() -> None:
    rows = rows_of(ended(0, "out_of_memory", params(8)), ended(1, "skipped", params(9), reason="needs more than trial 0"))
    assert [row.outcome for row in rows] == [None, None, None, "out_of_memory", "out_of_memory"]


def test_a_measured_trial_speaks_before_a_later_one_that_was_interrupted() -> None:
    rows = rows_of(MEASURED, ended(7, "interrupted", params(4)))
    assert rows[2].outcome == "completed"


def test_csv_has_full_names_and_every_digit() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(rows_of(MEASURED)))))
    assert len(lines) == 5
    assert lines[2]["per_device_train_batch_size"] == "4"
    assert lines[2]["peak_memory_mib"] == "3805.5"
    assert lines[2]["precision"] == "fp32"
    assert lines[2]["published_train_time_s"] == "72.18"
    assert (lines[0]["outcome"], lines[0]["train_time_s"]) == ("not_tried", "")
    assert [line["published_out_of_memory"] for line in lines] == ["False"] * 4 + ["True"]


def test_what_varies_has_a_column_and_a_table_with_no_published_figures_has_none_of_those() -> None:
    head = as_markdown(rows_of(preset="lecture-checkpointing")).splitlines()[0]
    assert "checkpointing" in head
    assert "precision" not in head
    assert "published" not in head


def test_the_command_runs_the_grid_shows_what_did_not_fit_and_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))
    storage = f"sqlite:///{tmp_path}/a.db"
    settings = [
        "job.train_samples=384", "job.eval_samples=32", "job.epochs=0.25", "limits.peak_memory_mib=40",
        "space.per_device_train_batch_size=[16, 384]",
    ]  # fmt: skip
    arguments = ["sweep", "--preset", "lecture-batch-size", "--job", "embedded", "--storage", storage]
    arguments += [word for setting in settings for word in ("--set", setting)]

    def ask(output_format: str) -> str:
        done = CliRunner().invoke(cli.app, [*arguments, "--format", output_format], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    first, second = csv.DictReader(io.StringIO(ask("csv")))
    assert (first["per_device_train_batch_size"], first["outcome"]) == ("16", "completed")
    for name in ("train_time_s", "samples_per_s", "peak_memory_mib", "memory_utilization_percent", "train_loss"):
        assert float(first[name]) > 0
    assert 0 <= float(first["accuracy"]) <= 1
    assert float(first["memory_utilization_percent"]) == pytest.approx(float(first["peak_memory_mib"]) / 0.4)
    assert (second["per_device_train_batch_size"], second["outcome"]) == ("384", "out_of_memory")

    stored = read_results(load_study("sweep-lecture-batch-size-embedded", open_storage(storage)))
    table = ask("table")
    assert "out of memory" in table
    assert "Generated reviews, by batch size" in table
    again = read_results(load_study("sweep-lecture-batch-size-embedded", open_storage(storage)))
    assert again.records == stored.records


def test_an_objective_that_the_published_tables_lack_has_a_column_of_its_own() -> None:
    figures = {"train_time_s": 4.0, "eval_loss": 1.25}
    rows = [
        SweepRow(params={"per_device_train_batch_size": 8}, outcome="completed", reason="", figures=figures, published=None)
    ]
    head, line = as_csv(rows).splitlines()
    assert dict(zip(head.split(","), line.split(","), strict=True))["eval_loss"] == "1.25"
    assert "| evaluation loss |" in as_markdown(rows)
    assert "1.2500" in as_markdown(rows)
