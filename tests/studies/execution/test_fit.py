import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from running import SharedTrialServer, cache_folder, tiny_job
from simulated_runner import setup

from tradeoff.objectives.job.arguments import name_of_data
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.outcome import Completed, Failed, Measurements, Memory, OutOfMemory, ProbeResult
from tradeoff.searchspace import Categorical, Precision, SearchSpace, TrialParameters
from tradeoff.studies.cli import fit as fit_command
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.fit import Fit, compute_configurations, fit_all

PLAIN = TrialParameters(per_device_train_batch_size=1)


def nothing_known(num_train: int, limit_mib: float) -> Knowledge:
    return Knowledge(setup=setup(job=TextClassificationJob(), num_train=num_train, memory_limit_mib=limit_mib))


class Bench:
    """Answers probes by a formula of the batch, and notes which batches were tried."""

    def __init__(self, memory_mib: Callable[[int], float], *, limit_mib: float, num_train: int = 1000) -> None:
        self.memory_mib = memory_mib
        self.limit_mib = limit_mib
        self.num_train = num_train
        self.tried: list[int] = []

    def probe(self, parameters: TrialParameters) -> Any:
        batch = parameters.per_device_train_batch_size
        self.tried.append(batch)
        memory_mib = self.memory_mib(batch) + (50.0 if parameters.gradient_accumulation_steps > 1 else 0.0)
        if memory_mib > self.limit_mib:
            return OutOfMemory(stage="probe", reason="too large", shortfall_mib=memory_mib - self.limit_mib)
        return Completed(
            measurements=Measurements(
                probe=ProbeResult(
                    memory=Memory(peak_memory_mib=memory_mib),
                    micro_step_time_s=0.5,
                    optimizer_step_time_s=0.1,
                    eval_batch_time_s=None,
                    estimated_train_time_s=1.0,
                    probe_time_s=1.0,
                    gradients_mib=50.0,
                )
            )
        )

    def fit(self, *ways: TrialParameters) -> list[Fit]:
        return list(fit_all(ways or (PLAIN,), self.probe, nothing_known(self.num_train, self.limit_mib)))


def test_the_largest_batch_is_exact_and_the_next_one_was_seen_to_fail() -> None:
    # 10 MiB and 1 MiB for each sample: 90 samples fit in 100 MiB, and 91 need 101.
    bench = Bench(lambda batch: 10.0 + batch, limit_mib=100.0)
    (fit,) = bench.fit()
    assert (fit.batch, fit.peak_memory_mib, fit.next_needs_mib) == (90, 100.0, 101.0)
    assert (fit.samples_per_s, fit.failure, fit.is_all) == (180.0, None, False)
    # Two for a line, the batch where it meets the budget, and the one after that.
    assert bench.tried == [8, 32, 90, 91]
    assert fit.num_probes == 4


def test_no_batch_is_larger_than_the_training_samples() -> None:
    bench = Bench(lambda batch: 10.0 + batch, limit_mib=5000.0, num_train=64)
    (fit,) = bench.fit()
    assert (fit.batch, fit.is_all, fit.next_needs_mib) == (64, True, None)
    assert bench.tried == [8, 32, 64]


def test_a_packed_sequence_counts_as_the_samples_that_are_in_it() -> None:
    # 90 samples in 30 sequences: all of them are 180 samples a second, and there is no batch of 31.
    bench = Bench(lambda batch: 10.0 + batch, limit_mib=5000.0)
    job = CausalLMJob(packing=True)
    known = setup(job=job, num_train=90, num_packed={name_of_data(job): 30}, memory_limit_mib=5000.0)
    (fit,) = fit_all((PLAIN,), bench.probe, Knowledge(setup=known))
    assert (fit.batch, fit.is_all, fit.samples_per_s) == (30, True, 180.0)


def test_where_not_even_one_sample_fits_there_is_no_batch() -> None:
    (fit,) = Bench(lambda batch: 200.0 + batch, limit_mib=100.0).fit()
    assert (fit.batch, fit.peak_memory_mib, fit.next_needs_mib, fit.failure) == (None, None, 201.0, None)


def test_with_accumulation_the_line_of_the_class_without_it_is_moved_by_the_gradients() -> None:
    bench = Bench(lambda batch: 10.0 + batch, limit_mib=100.0)
    without, accumulating = bench.fit(PLAIN, TrialParameters(per_device_train_batch_size=1, gradient_accumulation_steps=2))
    # 50 MiB of gradients leave room for 40 samples.
    assert (without.batch, accumulating.batch) == (90, 40)
    assert bench.tried[4:] == [40, 41]


def test_a_probe_that_fails_ends_its_row_alone() -> None:
    bench = Bench(lambda batch: 10.0 + batch, limit_mib=100.0)

    def probe(parameters: TrialParameters) -> Any:
        if parameters.precision == Precision.BF16:
            return Failed(stage="probe", reason="RuntimeError: no such kernel")
        return bench.probe(parameters)

    ways = [TrialParameters(per_device_train_batch_size=1, precision=Precision.BF16), PLAIN]
    failed, found = fit_all(ways, probe, nothing_known(1000, 100.0))
    assert (failed.batch, failed.failure) == (None, "batch 8: RuntimeError: no such kernel")
    assert found.batch == 90


@settings(max_examples=200, deadline=None)
@given(
    base_mib=st.floats(0, 300),
    slope_mib=st.floats(0.05, 50),
    power=st.sampled_from([0.8, 1.0, 1.2]),
    num_train=st.integers(1, 3000),
)
def test_any_growing_memory_gives_the_batch_that_trying_each_one_would(
    base_mib: float, slope_mib: float, power: float, num_train: int
) -> None:
    bench = Bench(lambda batch: base_mib + slope_mib * batch**power, limit_mib=250.0, num_train=num_train)
    (fit,) = bench.fit()
    fitting = [batch for batch in range(1, num_train + 1) if bench.memory_mib(batch) <= 250.0]
    assert (fit.batch or 0) == len(fitting)
    assert len(set(bench.tried)) == len(bench.tried) <= 30


def test_there_is_a_row_for_each_way_that_differs_in_memory() -> None:
    space = SearchSpace(
        domains={
            "per_device_train_batch_size": Categorical((4, 8)),
            "gradient_accumulation_steps": Categorical((8, 1, 2)),
            "gradient_checkpointing": Categorical((False, True)),
            "precision": Categorical(("fp32",)),
        }
    )
    ways = compute_configurations(space)
    assert [(way.gradient_checkpointing, way.gradient_accumulation_steps) for way in ways] == [
        (False, 1), (False, 2), (True, 1), (True, 2)
    ]  # fmt: skip


def test_a_space_that_always_accumulates_has_no_row_without() -> None:
    space = SearchSpace(
        domains={"per_device_train_batch_size": Categorical((4,)), "gradient_accumulation_steps": Categorical((4, 8))}
    )
    assert [way.gradient_accumulation_steps for way in compute_configurations(space)] == [4]


def test_more_combinations_than_anybody_waits_for_are_refused_before_they_are_multiplied_out() -> None:
    # Values of a parameter of one's own are taken to change memory: 10 of each of twelve would fill it.
    own = {f"option_{number}": Categorical(tuple(range(10))) for number in range(12)}
    space = SearchSpace(domains={"per_device_train_batch_size": Categorical((4,)), **own})
    with pytest.raises(TradeoffError, match=r"at most 256 combinations .* has 1,000,000,000,000, .* --set space.option_0=0$"):
        compute_configurations(space)
    few = SearchSpace(domains={"per_device_train_batch_size": Categorical((4,)), "option_0": own["option_0"]})
    assert len(compute_configurations(few)) == 10


def test_the_command_finds_the_batch_of_real_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_command, "TrialServer", SharedTrialServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    study = tmp_path / "study.yaml"
    job = tiny_job().model_dump(mode="json")
    # The batch of the study itself is more than there are samples, and does not count.
    space = {"per_device_train_batch_size": 5000, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    study.write_text(json.dumps({"job": job, "space": {**space, "precision": "fp32"}}))

    def fit(limit_mib: float | None) -> dict[str, Any]:
        with pytest.raises(typer.Exit) as ended:
            fit_command.fit(study, limit_mib=limit_mib, output_format="json")
        captured = capsys.readouterr()
        assert ended.value.exit_code == 0, captured.err
        (row,) = json.loads(captured.out)["rows"]
        return dict(row) | {"progress": captured.err}

    everything = fit(None)
    assert (everything["largest_batch"], everything["holds_all_samples"]) == (64, True)
    limit_mib = everything["peak_memory_mib"] * 0.8
    found = fit(limit_mib)
    assert 1 <= found["largest_batch"] < 64
    assert found["peak_memory_mib"] <= limit_mib < found["next_batch_needs_at_least_mib"]
    assert f"{found['largest_batch'] + 1} x 1, fp32  out of memory" in found["progress"]
