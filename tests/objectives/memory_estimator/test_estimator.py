"""Predictions for a space of configurations."""

import json

import pytest
from transformers import BertConfig, DebertaV2Config, DistilBertConfig, GPT2Config, LlamaConfig, LongformerConfig, ViTConfig

from tradeoff.objectives.memory_estimator.estimator import plan
from tradeoff.objectives.memory_estimator.gpus import CARDS
from tradeoff.objectives.memory_estimator.run_estimate import Device, largest_fitting
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.searchspace import Precision, TrialParameters

CONFIG = BertConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
)
SETTINGS = TraceSettings(sequence_length=16, attention="eager")


def configuration(batch, accumulation=1, **changes):
    return TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **changes)


def test_the_lectures_measurements_are_met_and_9_samples_do_not_fit():
    """BERT-base, 512 tokens, fp32, torch 2.0's AdamW, a context of 417 MiB on a card of 7,611 MiB."""
    measured = {1: 3281, 2: 3391, 4: 4613, 8: 7069}
    accumulated = {2: 7509, 32: 7509, 128: 6637, 4096: 6637}
    settings = TraceSettings(sequence_length=512, num_labels=5, attention="eager", torch_release="2.0")
    predictions = plan(
        BertConfig(),
        [configuration(batch) for batch in [*measured, 9]] + [configuration(8, steps) for steps in accumulated],
        settings=settings,
        device_memory_mib=7611,
        context_memory_mib=417,
        train_samples=512,
    )
    for prediction, value in zip(predictions[:4], measured.values(), strict=True):
        assert prediction.predicted_peak_memory_mib == pytest.approx(value, rel=0.05)
    for prediction, value in zip(predictions[5:], accumulated.values(), strict=True):
        assert prediction.predicted_peak_memory_mib == pytest.approx(value, rel=0.07)
    assert [prediction.fits for prediction in predictions] == [True] * 4 + [False] + [True] * 4
    assert predictions[4].predicted_peak_memory_mib > 7611
    assert predictions[4].fails_at == "forward and backward"


def test_parts_add_up_to_the_peak_between_its_bounds():
    for prediction in plan(CONFIG, [configuration(1), configuration(6, 2)], settings=SETTINGS):
        assert sum(prediction.parts.values()) == pytest.approx(prediction.predicted_peak_memory_mib)
        assert min(prediction.parts.values()) >= 0
        assert prediction.predicted_low_mib <= prediction.predicted_peak_memory_mib <= prediction.predicted_high_mib
        assert prediction.fits is None


def test_predictions_come_in_the_order_of_the_configurations():
    order = [configuration(8), configuration(1), configuration(4, precision="bf16"), configuration(2)]
    assert [each.parameters for each in plan(CONFIG, order, settings=SETTINGS)] == order


def test_the_largest_batch_that_fits_is_found_for_each_class():
    space = [
        configuration(batch, accumulation, gradient_checkpointing=checkpointing)
        for batch in (2, 256, 1024)
        for accumulation in (1, 4)
        for checkpointing in (False, True)
    ]
    predictions = plan(
        CONFIG, space, settings=SETTINGS, device_memory_mib=900, context_memory_mib=400, loaded_code_memory_mib=0
    )
    frontier = largest_fitting(predictions)
    assert set(frontier) == {(checkpointing, Precision.FP32, steps) for checkpointing in (False, True) for steps in (1, 4)}
    for (checkpointing, _, steps), best in frontier.items():
        fitting = [
            each.parameters.per_device_train_batch_size
            for each in predictions
            if each.fits and each.parameters.gradient_checkpointing == checkpointing
            and each.parameters.gradient_accumulation_steps == steps
        ]  # fmt: skip
        assert best.parameters.per_device_train_batch_size == max(fitting)


def test_a_class_in_which_nothing_fits_is_shown_as_such():
    predictions = plan(CONFIG, [configuration(4096)], settings=SETTINGS, device_memory_mib=600)
    assert predictions[0].fits is False
    assert largest_fitting(predictions) == {(False, Precision.FP32, 1): None}


def test_what_was_traced_is_not_traced_again(tmp_path):
    first, second = [], []
    space = [configuration(4), configuration(1)]
    before = plan(CONFIG, space, settings=SETTINGS, cache_folder=tmp_path, progress=first.append)
    after = plan(CONFIG, space, settings=SETTINGS, cache_folder=tmp_path, progress=second.append)
    assert any("tracing" in line for line in first)
    assert second == []
    assert after == before


def test_other_settings_are_traced_apart(tmp_path):
    lines = []
    plan(CONFIG, [configuration(1)], settings=SETTINGS, cache_folder=tmp_path)
    other = TraceSettings(sequence_length=8, attention="eager")
    plan(CONFIG, [configuration(1)], settings=other, cache_folder=tmp_path, progress=lines.append)
    assert any("tracing" in line for line in lines)


def test_a_batch_above_the_number_of_samples_is_one_of_all_samples():
    [large, exact] = plan(CONFIG, [configuration(64), configuration(5)], settings=SETTINGS, train_samples=5)
    assert large.predicted_peak_memory_mib == exact.predicted_peak_memory_mib


def test_a_larger_evaluation_batch_counts():
    [without] = plan(CONFIG, [configuration(2)], settings=SETTINGS)
    [with_evaluation] = plan(CONFIG, [configuration(2)], settings=SETTINGS, eval_batch_size=2048)
    assert with_evaluation.predicted_peak_memory_mib > without.predicted_peak_memory_mib + 10


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50), "sequence-classification"),
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50), "causal-lm"),
        (
            LlamaConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=64,
                vocab_size=50,
            ),
            "causal-lm",
        ),
        (DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=50), "sequence-classification"),
    ],
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_other_models_and_heads_are_predicted(config, task, attention):
    settings = TraceSettings(sequence_length=16, task=task, attention=attention, padded=False)
    space = [configuration(5), configuration(5, precision="fp16", gradient_checkpointing=True)]
    for prediction in plan(config, space, settings=settings, device_memory_mib=8000):
        assert prediction.fits is True


def test_a_head_that_picks_labels_by_their_values_is_predicted():
    config = DebertaV2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    [prediction] = plan(config, [configuration(4)], settings=SETTINGS, device_memory_mib=8000)
    assert prediction.fits is True


def test_a_configuration_is_read_from_a_folder(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    [from_folder] = plan(tmp_path, [configuration(2)], settings=SETTINGS)
    [from_object] = plan(CONFIG, [configuration(2)], settings=SETTINGS)
    [from_contents] = plan(json.loads((tmp_path / "config.json").read_text()), [configuration(2)], settings=SETTINGS)
    assert from_folder == from_object == from_contents


def test_a_prediction_is_plain_data_for_json():
    [prediction] = plan(CONFIG, [configuration(2)], settings=SETTINGS, device_memory_mib=8000)
    plain = json.loads(json.dumps(prediction.as_dict()))
    assert plain["params"] == configuration(2).as_dict()
    assert plain["fits"] is True
    assert {"predicted_peak_memory_mib", "predicted_low_mib", "predicted_high_mib"} < set(plain)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("no/such/folder/here", {}, "no model configuration at 'no/such/folder/here'"),
        ({"model_type": "no-such-type"}, {}, "no-such-type"),
        (ViTConfig(), {}, "vit models have no head for sequence-classification"),
        (
            BertConfig(hidden_size=32, num_attention_heads=2, vocab_size=50, pad_token_id=60),
            {"attention": None},
            "a bert model can't be built: Padding_idx must be within num_embeddings",
        ),
        (DistilBertConfig(), {"task": "causal-lm"}, "it works for sequence-classification"),
        (CONFIG, {"sequence_length": 513}, "must not exceed the 512 positions"),
        (
            LongformerConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                vocab_size=50,
                attention_window=8,
            ),
            {},
            "longformer models can't be predicted, since aten._local_scalar_dense.default depends on the data",
        ),
    ],
)
def test_what_can_not_be_predicted_is_named_in_a_sentence(config, changes, message):
    settings = TraceSettings(**({"sequence_length": 16, "attention": "eager"} | changes))
    with pytest.raises(ValueError, match=message):
        plan(config, [configuration(2)], settings=settings)


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "lion"}, {"attention": "flash"}, {"sequence_length": 0}, {"torch_release": "0.4"}, {"max_grad_norm": -1}],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        TraceSettings(**({"sequence_length": 16} | changes))


def test_a_card_must_hold_its_context():
    with pytest.raises(ValueError, match="must exceed its CUDA context"):
        Device(memory_mib=400, context_memory_mib=417)


def test_cards_are_named_once_and_hopper_takes_larger_workspaces():
    assert len({card.name for card in CARDS}) == len(CARDS)
    workspaces = {card.name: card.blas.cublas_bytes for card in CARDS}
    assert workspaces["H100 80 GB"] == 32 * 1024 * 1024
    assert workspaces["A100 80 GB"] == 8_519_680
