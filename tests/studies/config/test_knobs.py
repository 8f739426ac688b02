"""Optimizer, attention, padding and compilation in a study: what is refused or left out, and how the search treats them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import tiny_job, tiny_study
from simulated_runner import BUDGET_MIB, memory_mib, setup
from simulated_survey import Survey
from transformers import LongformerConfig

from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.memory_estimator.job import estimate_for_search
from tradeoff.searchspace import Categorical, LearningClass, Precision, SearchSpace, TrialParameters
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import validated
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.space_estimates import estimate_memory
from tradeoff.studies.results.tables import short_class, short_configuration, show_parameter
from tradeoff.studies.samplers.metric_gp import MetricGP
from tradeoff.studies.samplers.survey import Depth, next_probe

CPU = {"kind": "cpu", "name": "a processor", "precisions": ["fp32", "bf16"], "extras": ["torch_compile"]}
JOB = TextClassificationJob(train_samples=1000, epochs=1)


def study(**space: Any) -> StudyConfig:
    return tiny_study(space={"per_device_train_batch_size": [8], "precision": "fp32"} | space)


def learning_class(batch: int, **settings: Any) -> LearningClass:
    return LearningClass(effective_batch_size=batch, **({"precision": Precision.FP32} | settings))


def probed(number: int, parameters: TrialParameters, *, step_s: float, update_s: float, memory_mib: float) -> TrialRecord:
    probe = {"micro_step_time_s": step_s, "optimizer_step_time_s": update_s, "gradients_mib": 10.0}
    attributes = {"peak_memory_mib": memory_mib, "probe": probe}
    return TrialRecord(number=number, outcome="probed", params=parameters.as_dict(), attributes=attributes)


def test_what_is_not_installed_is_left_out_before_the_study_in_a_line_each() -> None:
    config = study(
        optim=["adamw_torch", "adamw_bnb_8bit", "lion_8bit"],
        attn_implementation=["sdpa", "flash_attention_2"],
        torch_compile=[False, True],
    )
    space, lines = available_space(config, CPU | {"extras": []})
    assert space.domains["optim"].values() == ("adamw_torch",)
    assert space.domains["attn_implementation"].values() == ("sdpa",)
    assert space.domains["torch_compile"].values() == (False,)
    assert lines is not None
    assert lines.splitlines() == [
        "adamw_bnb_8bit and lion_8bit left out: needs the package bitsandbytes, which is not installed",
        "flash_attention_2 left out: needs a GPU and the package flash_attn",
        "torch_compile left out: needs a compiler: g++ (clang++ on macOS) on a CPU, triton and gcc or clang on a GPU",
    ]
    assert available_space(config, CPU | {"extras": ["bitsandbytes", "flash_attention_2", "torch_compile"]})[1] is None


def test_a_study_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(TradeoffError, match=r"space\.optim: none of the values to search is available here \(lion_8bit\)"):
        available_space(study(optim=["lion_8bit"]), CPU)


def test_an_optimizer_of_the_job_that_is_not_installed_is_refused() -> None:
    config = tiny_study(job=tiny_job(optim="adamw_bnb_8bit").model_dump())
    with pytest.raises(TradeoffError, match=r"job\.optim: adamw_bnb_8bit needs the package bitsandbytes"):
        available_space(config, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"optim": "adam"}}, r"space\.optim: optim must be a name that transformers has, got 'adam'"),
        ({"space": {"torch_compile": "yes"}}, r"space\.torch_compile: must be true or false, got 'yes'"),
        ({"space": {"attn_implementation": ["sdpa", "sdpa"]}}, "must name each value once"),
        ({"job": {"optim": "adam"}}, r"job\.optim must be a name that transformers has, got 'adam'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_when_the_file_is_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TradeoffError, match=message):
        validated(change, where="study.yaml")


def test_flash_attention_alone_in_full_precision_leaves_no_configuration() -> None:
    with pytest.raises(ValueError, match="flash_attention_2 computes in 16 bits only, and precision is fp32"):
        study(attn_implementation="flash_attention_2")


def test_a_configuration_in_words_names_what_was_chosen() -> None:
    params = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "precision": "bf16",
        "optim": "adafactor",
        "padding": "longest",
        "train_sampling_strategy": "random",
        "attn_implementation": "eager",
        "torch_compile": True,
    }
    assert short_configuration(params) == "8 x 2, bf16, adafactor, padding longest, attention eager, compiled"
    assert "group_by_length" in short_configuration(params | {"train_sampling_strategy": "group_by_length"})


def test_a_local_model_is_shown_by_the_end_of_its_path_and_any_other_as_it_is() -> None:
    models = ("/home/someone/models/minilm", "../of/others/minilm", "./minilm", "/a/b", "prajjwal1/bert-small")
    assert [show_parameter(model) for model in models] == [
        ".../models/minilm", ".../others/minilm", "./minilm", "/a/b", "prajjwal1/bert-small"
    ]  # fmt: skip
    assert short_configuration({"per_device_train_batch_size": 8, "model": models[0]}) == "8 x 1, .../models/minilm"


def test_a_knob_of_the_users_own_is_shown_by_its_name() -> None:
    assert short_configuration({"per_device_train_batch_size": 8, "head_size": 16}) == "8 x 1, head_size 16"


def test_a_learning_class_is_named_as_a_configuration_is() -> None:
    learning_class = {"effective_batch_size": 16, "gradient_checkpointing": True, "optim": "adafactor", "padding": None}
    assert short_class(learning_class) == "effective batch 16, checkpointing, adafactor"
    assert short_class({"effective_batch_size": 16, "gradient_checkpointing": False}) == "effective batch 16"


def test_what_one_optimizer_learns_says_little_of_another() -> None:
    trained = [
        (learning_class(8, optim="adamw_torch"), 0.60),
        (learning_class(64, optim="adamw_torch"), 0.58),
        (learning_class(8, optim="sgd"), 0.20),
    ]
    means, deviations = MetricGP(trained).predict(
        [learning_class(16, optim=name) for name in ("adamw_torch", "sgd", "adafactor")]
    )
    assert means[1] < 0.4 < means[0]
    assert deviations[2] > deviations[0]


def test_the_time_of_an_update_is_that_of_the_configurations_own_optimizer() -> None:
    space = SearchSpace(
        domains={
            "per_device_train_batch_size": Categorical((8, 16)),
            "gradient_accumulation_steps": Categorical((1, 2)),
            "optim": Categorical(("sgd", "adamw_torch")),
        }
    )
    adam, sgd = (TrialParameters(per_device_train_batch_size=10, optim=name) for name in ("adamw_torch", "sgd"))
    records = [
        probed(0, adam, step_s=0.1, update_s=0.05, memory_mib=300.0),
        probed(1, sgd, step_s=0.1, update_s=0.01, memory_mib=100.0),
    ]
    knowledge = Knowledge.of(records, setup(space, job=JOB, num_train=1000, memory_limit_mib=1000.0))
    # 100 micro-steps of 0.1 s and 100 updates.
    assert knowledge.cost(adam).train_time_s == pytest.approx(10 + 100 * 0.05)  # type: ignore[union-attr]
    assert knowledge.cost(sgd).train_time_s == pytest.approx(10 + 100 * 0.01)  # type: ignore[union-attr]
    assert knowledge.memory_mib(adam) == (300.0, "probe")
    assert knowledge.memory_mib(sgd) == (100.0, "probe")


def test_an_optimizer_that_costs_more_is_not_put_off_because_another_is_cheaper() -> None:
    space = SearchSpace(
        domains={
            "per_device_train_batch_size": Categorical((8,)),
            "optim": Categorical(("sgd", "adamw_torch")),
            "attn_implementation": Categorical(("sdpa", "eager")),
        }
    )

    def configuration(optim: str, attention: str) -> TrialParameters:
        return TrialParameters(per_device_train_batch_size=8, optim=optim, attn_implementation=attention)

    costs = {
        ("sgd", "sdpa"): (0.1, 100.0),
        ("sgd", "eager"): (0.2, 200.0),
        ("adamw_torch", "sdpa"): (0.3, 300.0),
        ("adamw_torch", "eager"): (0.4, 400.0),
    }
    records, asked = [], []
    for number in range(4):
        knowledge = Knowledge.of(records, setup(space, job=JOB, num_train=1000, memory_limit_mib=1000.0))
        probe = next_probe(knowledge, depth=Depth.PROMISING)
        if probe is None:
            break
        asked.append((probe["optim"], probe["attn_implementation"]))
        step_s, memory_mib = costs[asked[-1]]  # type: ignore[index]
        records.append(probed(number, probe, step_s=step_s, update_s=0.01, memory_mib=memory_mib))
    assert set(asked) == set(costs)


def test_compiling_counts_in_the_time_of_a_training_and_not_in_that_of_a_step() -> None:
    space = SearchSpace(
        domains={"per_device_train_batch_size": Categorical((10, 20)), "torch_compile": Categorical((False, True))}
    )
    plain, compiled = (TrialParameters(per_device_train_batch_size=10, torch_compile=value) for value in (False, True))
    quick = probed(1, compiled, step_s=0.1, update_s=0.01, memory_mib=100.0)
    records = [
        probed(0, plain, step_s=0.2, update_s=0.01, memory_mib=100.0),
        replace(quick, attributes=quick.attributes | {"probe": quick.attributes["probe"] | {"compile_time_s": 7.0}}),
    ]
    knowledge = Knowledge.of(records, setup(space, job=JOB, num_train=1000, memory_limit_mib=1000.0))
    assert knowledge.cost(plain).train_time_s == pytest.approx(100 * (0.2 + 0.01))  # type: ignore[union-attr]
    assert knowledge.cost(compiled).train_time_s == pytest.approx(7 + 100 * (0.1 + 0.01))  # type: ignore[union-attr]


def test_a_plan_has_every_optimizer_that_a_study_searches() -> None:
    estimates = estimate_memory(study(optim=["sgd", "adafactor"])).estimates
    assert {estimate.parameters["optim"] for estimate in estimates} == {"sgd", "adafactor"}


def test_a_search_estimates_each_optimizer_apart_and_leaves_out_what_can_not_be_traced(tmp_path: Path) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {"optim": "sgd"},
        {"optim": "adamw_torch"},
        {"optim": "lion_8bit"},
        {"torch_compile": True},
    )
    configurations = [TrialParameters(per_device_train_batch_size=8, **way) for way in ways]
    estimates = estimate_for_search(tiny_job(), configurations, device=CPU, memory_limit_mib=1000.0, cache_folder=tmp_path)
    sgd, adam, *others = (estimates.at(parameters.memory_class(), 8) for parameters in configurations)
    assert sgd is not None
    assert adam is not None
    # Two states a weight: the peak of so small a model is its update.
    assert adam.peak_memory_mib > sgd.peak_memory_mib
    assert others == [None, None]
    with pytest.raises(ValueError, match="memory is estimated for adamw_torch"):
        estimate_for_search(tiny_job(), configurations[2:], device=CPU, memory_limit_mib=1000.0, cache_folder=tmp_path)


def test_a_search_has_estimates_of_the_models_that_can_be_traced_and_a_line_about_the_other(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    LongformerConfig(**sizes, attention_window=8).save_pretrained(tmp_path / "longformer")
    models = ("embedded", str(tmp_path / "longformer"))
    configurations = [TrialParameters(per_device_train_batch_size=2, model=model) for model in models]
    said: list[str] = []
    terms: dict[str, Any] = {"device": CPU, "memory_limit_mib": 1000.0, "cache_folder": tmp_path, "say": said.append}
    estimates = estimate_for_search(tiny_job(), configurations, **terms)
    assert [estimates.at(parameters.memory_class(), 2) is None for parameters in configurations] == [False, True]
    (line,) = said
    assert line.startswith(f"no memory estimate of {models[1]}: the memory of longformer models can't be estimated")
    with pytest.raises(ValueError, match="the memory of longformer models can't be estimated"):
        estimate_for_search(tiny_job(), configurations[1:], **terms)


@pytest.mark.parametrize(
    "knob", [{"train_sampling_strategy": ("random", "group_by_length")}, {"dataloader_num_workers": (0, 2)}], ids=str
)
def test_ways_to_compute_that_need_the_same_memory_are_each_timed(knob: dict[str, tuple[Any, ...]]) -> None:
    (name, values), batches = next(iter(knob.items())), Categorical((4, 8, 16, 32, 64))
    searched = SearchSpace(
        domains={
            "per_device_train_batch_size": batches,
            "gradient_accumulation_steps": Categorical((1, 2)),
            name: Categorical(values),
        }
    )
    survey = Survey(searched).run()
    knowledge = survey.knowledge()
    fitting = [parameters for parameters in searched.grid() if memory_mib(parameters) <= BUDGET_MIB]
    assert {parameters[name] for parameters in fitting} == set(values)
    assert all(knowledge.cost(parameters) is not None for parameters in fitting)
    # Memory is the same: what did not fit with the one is not tried with the other.
    assert len({p.per_device_train_batch_size for p in survey.runner.out_of_memory}) == len(survey.runner.out_of_memory)


def test_a_compiler_is_looked_for_where_torch_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "torch_compile" not in CpuDevice.extras()
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", "my-compiler")
    assert "torch_compile" in CpuDevice.extras()
