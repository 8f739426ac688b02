"""Exports for other trainers, read by their own parsers where they can be installed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported_studies import TINY, made_up
from stored_studies import record

from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import Lora
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import export
from tradeoff.studies.export.targets import Target, check_target, targets_of
from tradeoff.studies.results.selection import Selection, choose

JOB = CausalLMJob(
    model="HuggingFaceTB/SmolLM2-135M", dataset="trl-lib/Capybara", max_length=256, epochs=2, warmup_steps=0.1, seed=5,
    lora=Lora(r=4), train_samples=100,
)  # fmt: skip
CONFIGURATION = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "gradient_checkpointing": True, "precision": "bf16",
    "learning_rate": 2e-4, "lora_rank": 16, "attn_implementation": "sdpa", "train_sampling_strategy": "group_by_length",
}  # fmt: skip


def exported(tmp_path: Path, *targets: Target, job: Any = JOB, kind: str = "cpu", **changed: Any) -> Path:
    results = made_up(record(3, (0.7, 10.0, 1000.0), CONFIGURATION | changed), job=job, kind=kind)
    export(results, choose(results, Selection(trial=3)), tmp_path / "chosen", targets=targets)
    return tmp_path / "chosen"


def comments(path: Path) -> str:
    return "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_trl_reads_its_file_as_the_configuration(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    path = exported(tmp_path, "trl") / "trl.yaml"
    kinds = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)
    script, training, model, _ = trl.TrlParser(kinds).parse_args_and_config(["--config", str(path)])
    assert (script.dataset_name, script.dataset_train_split, script.dataset_test_split) == ("trl-lib/Capybara", "train", "test")
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (4, 8)
    assert (training.bf16, training.gradient_checkpointing, training.max_length) == (True, True, 256)
    assert (training.learning_rate, training.num_train_epochs, training.warmup_steps) == (2e-4, 2, 0.1)
    assert (model.model_name_or_path, model.dtype, model.attn_implementation) == (JOB.model, "float32", "sdpa")
    assert (model.use_peft, model.lora_r, model.lora_alpha, model.lora_target_modules) == (True, 16, 32, "all-linear")
    assert "train_samples=100" in comments(path)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_trl_trains_on_a_local_file(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    job = JOB.model_copy(update={"dataset": "chats.jsonl", "lora": None})
    path = exported(tmp_path, "trl", job=job, lora_rank=None) / "trl.yaml"
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig))
    _, training, model, mixture = parser.parse_args_and_config(["--config", str(path)])
    assert (mixture.datasets[0].path, mixture.datasets[0].data_files) == ("json", "chats.jsonl")
    assert (training.eval_strategy.value, model.use_peft) == ("no", False)
    assert "eval_strategy=epoch" in comments(path)


def test_axolotl_has_its_own_names(tmp_path: Path) -> None:
    path = exported(tmp_path, "axolotl") / "axolotl.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["datasets"][0]["path"] == "trl-lib/Capybara"
    assert (config["micro_batch_size"], config["gradient_accumulation_steps"], config["num_epochs"]) == (4, 8, 2)
    assert (config["adapter"], config["lora_r"], config["lora_target_linear"]) == ("lora", 16, True)
    assert (config["warmup_ratio"], config["group_by_length"], config["sdp_attention"]) == (0.1, True, True)
    assert "per_device_train_batch_size" not in config
    assert "data_seed=42" in comments(path)


def test_what_a_target_has_no_key_for_is_said(tmp_path: Path) -> None:
    path = exported(tmp_path, "axolotl", label_smoothing_factor=0.1) / "axolotl.yaml"
    assert "label_smoothing_factor=0.1" in comments(path)
    assert "label_smoothing_factor" not in yaml.safe_load(path.read_text())


def test_llamafactory_has_arguments_and_a_description_of_the_data(tmp_path: Path) -> None:
    chosen = exported(tmp_path, "llamafactory", gradient_checkpointing=False)
    config = yaml.safe_load((chosen / "llamafactory.yaml").read_text())
    assert (config["finetuning_type"], config["lora_rank"], config["lora_target"]) == ("lora", 16, "all")
    assert (config["cutoff_len"], config["flash_attn"], config["bf16"]) == (256, "sdpa", True)
    assert config["disable_gradient_checkpointing"] is True
    assert "max_length" not in config
    data = json.loads((chosen / "dataset_info.json").read_text())
    assert data[config["dataset"]]["hf_hub_url"] == "trl-lib/Capybara"
    assert data[config["eval_dataset"]]["split"] == "test"


def test_deepspeed_has_numbers_alone(tmp_path: Path) -> None:
    path = exported(tmp_path, "deepspeed", job=TINY) / "deepspeed.json"
    config = json.loads(path.read_text())
    assert (config["train_micro_batch_size_per_gpu"], config["train_batch_size"]) == (4, 32)
    assert (config["bf16"], config["fp16"]) == ({"enabled": True}, {"enabled": False})
    assert "auto" not in path.read_text()


def test_accelerate_reads_its_file(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(exported(tmp_path, "accelerate", job=TINY, kind="cuda") / "accelerate_config.yaml"))
    assert (config.mixed_precision, config.num_processes, config.use_cpu) == ("bf16", 1, False)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (TINY, "this study is none"),
        (CausalLMJob(), "the embedded model has random weights"),
        (JOB.model_copy(update={"model": "a/b:c.gguf"}), "is a GGUF file"),
    ],
)
@pytest.mark.parametrize("target", ["axolotl", "trl", "llamafactory"])
def test_a_job_that_a_target_can_not_train_is_refused_in_a_sentence(target: Target, job: Any, why: str) -> None:
    with pytest.raises(TradeoffError, match=f"--to {target} .*{why}.*; choose accelerate or deepspeed"):
        check_target(target, job)


def test_a_program_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert targets_of(["deepspeed", "trl"]) == ["deepspeed", "trl"]
    with pytest.raises(TradeoffError, match=r"^--to must be one of axolotl, trl, .*, got 'unsloth'$"):
        targets_of(["trl", "unsloth"])
