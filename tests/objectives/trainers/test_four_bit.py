"""Adapters beside weights of 4 bits, which bitsandbytes has for GPUs and for CPUs."""

from pathlib import Path

import pytest
import torch

from tradeoff.objectives.job.arguments import job_of, name_of_data, training_arguments
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.objectives.trainers.models import build_model
from tradeoff.objectives.trainers.prepared_data import prepare
from tradeoff.objectives.trainers.trained_parts import four_bit
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

SMALL = CausalLMJob(train_samples=16, eval_samples=8, max_length=32, epochs=1, learning_rate=1e-2, lora=Lora(r=2))


def test_weights_are_quantized_as_qlora_does() -> None:
    asked = four_bit(torch.bfloat16)
    assert asked.load_in_4bit
    assert (asked.bnb_4bit_quant_type, asked.bnb_4bit_use_double_quant) == ("nf4", True)
    assert asked.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_whole_model_is_trained_in_full_precision() -> None:
    job = SMALL.model_copy(update={"load_in_4bit": True})
    assert job_of(job, {"lora_rank": 4}).load_in_4bit
    assert not job_of(job, {"lora_rank": None}).load_in_4bit
    assert not job.with_whole_model().load_in_4bit


def test_a_model_without_weights_has_none_to_quantize(tmp_path: Path) -> None:
    data = prepare(SMALL, tmp_path)
    with pytest.raises(JobFault, match="load_in_4bit needs a model with weights in a directory or on the Hub, got 'embedded'"):
        build_model(SMALL.model_copy(update={"load_in_4bit": True}), data.model)


def test_adapters_learn_beside_weights_of_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Linear4bit

    whole = prepare(SMALL, tmp_path / "cache")
    build_model(SMALL.with_whole_model(), whole.model).save_pretrained(tmp_path / "model")
    whole.tokenizer.save_pretrained(tmp_path / "model")
    job = SMALL.model_copy(update={"model": str(tmp_path / "model")})
    folders = {name_of_data(job): str(prepare(job, tmp_path / "cache").folder)}
    for precision in ("fp32", "bf16"):
        parameters = TrialParameters(per_device_train_batch_size=4, precision=precision, load_in_4bit=True)
        workload = load_workload(job_of(job, parameters), folders)
        settings = training_arguments(job, parameters, output_dir=str(tmp_path / "output")) | {"use_cpu": True}
        trainer = workload.trainer(workload.arguments_class(**settings), parameters)
        quantized = [module for module in trainer.model.modules() if isinstance(module, Linear4bit)]
        assert len(quantized) == 2 * 7  # every linear layer of two blocks
        trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before
