"""Estimates for a space of configurations."""

import json

import pytest
from transformers import (
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    LongformerConfig,
    T5Config,
    ViTConfig,
)

from tradeoff.objectives.memory_estimator.blas import HOPPER_BLAS, BlasWorkspace
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.gpus import GPUS
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.searchspace import TrialParameters

CONFIG = BertConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
)
SETTINGS = TraceSettings(sequence_length=16, attention="eager")


@pytest.fixture(scope="module")
def estimates(tmp_path_factory):
    """Estimates from traces that the tests share, unless they name another folder: a trace takes half a second."""
    folder = tmp_path_factory.mktemp("traces")

    def made(config, configurations, settings=SETTINGS, *, cache_folder=folder, **arguments):
        return MemoryEstimator(config, settings=settings, cache_folder=cache_folder, **arguments).estimate(configurations)

    return made


def configuration(batch, accumulation=1, **changes):
    return TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **changes)


def test_parts_add_up_to_the_peak_between_its_bounds(estimates):
    for estimate in estimates(CONFIG, [configuration(1), configuration(6, 2)]):
        assert sum(estimate.parts.values()) == pytest.approx(estimate.peak_memory_mib)
        assert min(estimate.parts.values()) >= 0
        assert estimate.lower_bound_mib <= estimate.peak_memory_mib <= estimate.upper_bound_mib
        assert estimate.fits is None


def test_estimates_come_in_the_order_of_the_configurations(estimates):
    order = [configuration(8), configuration(1), configuration(4, precision="bf16"), configuration(2)]
    assert [each.parameters for each in estimates(CONFIG, order)] == order


def test_the_largest_batch_that_fits_is_found_for_each_class(estimates):
    space = [
        configuration(batch, accumulation, gradient_checkpointing=checkpointing)
        for batch in (2, 256, 1024)
        for accumulation in (1, 4)
        for checkpointing in (False, True)
    ]
    gpu = GpuMemory(total_mib=900, context_mib=400, loaded_code_mib=0)
    estimator = MemoryEstimator(CONFIG, settings=SETTINGS, gpu=gpu)
    frontier = estimator.largest_fitting(estimator.estimate(space))
    assert {(one.gradient_checkpointing, one.gradient_accumulation_steps) for one in frontier} == {
        (checkpointing, steps) for checkpointing in (False, True) for steps in (1, 4)
    }
    for best in frontier.values():
        assert best.fits
        batch = best.parameters.per_device_train_batch_size
        assert batch not in (2, 256, 1024)
        [larger] = estimator.estimate([best.parameters.replace(per_device_train_batch_size=batch + 1)])
        assert not larger.fits


def test_a_class_in_which_nothing_fits_is_shown_as_such(estimates):
    estimator = MemoryEstimator(CONFIG, settings=SETTINGS, gpu=GpuMemory(total_mib=550, context_mib=417))
    found = estimator.estimate([configuration(4096)])
    assert found[0].fits is False
    assert estimator.largest_fitting(found) == {configuration(1): None}


def test_what_was_traced_is_not_traced_again(estimates, tmp_path):
    first, second = [], []
    space = [configuration(4), configuration(1)]
    before = estimates(CONFIG, space, cache_folder=tmp_path, progress=first.append)
    after = estimates(CONFIG, space, cache_folder=tmp_path, progress=second.append)
    assert any("tracing" in line for line in first)
    assert second == []
    assert after == before


def test_other_settings_are_traced_apart(estimates, tmp_path):
    lines = []
    estimates(CONFIG, [configuration(1)], cache_folder=tmp_path)
    other = TraceSettings(sequence_length=8, attention="eager")
    estimates(CONFIG, [configuration(1)], settings=other, cache_folder=tmp_path, progress=lines.append)
    assert any("tracing" in line for line in lines)


def test_a_batch_above_the_number_of_samples_is_one_of_all_samples(estimates):
    [large, exact] = estimates(CONFIG, [configuration(64), configuration(5)], train_samples=5)
    assert large.peak_memory_mib == exact.peak_memory_mib


def test_a_larger_evaluation_batch_counts(estimates):
    [without] = estimates(CONFIG, [configuration(2)])
    [with_evaluation] = estimates(CONFIG, [configuration(2)], eval_batch_size=2048)
    assert with_evaluation.peak_memory_mib > without.peak_memory_mib + 10


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
def test_other_models_and_heads_are_estimated(estimates, config, task, attention):
    settings = TraceSettings(sequence_length=16, task=task, attention=attention, padded=False)
    space = [configuration(5), configuration(5, precision="fp16", gradient_checkpointing=True)]
    for estimate in estimates(config, space, settings=settings, gpu=GpuMemory(total_mib=8000)):
        assert estimate.fits is True


def test_a_head_that_picks_labels_by_their_values_is_estimated(estimates):
    config = DebertaV2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    [estimate] = estimates(config, [configuration(4)], gpu=GpuMemory(total_mib=8000))
    assert estimate.fits is True


@pytest.mark.parametrize(
    "config",
    [
        T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0),
        BartConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            vocab_size=50,
        ),
    ],
    ids=["t5", "bart"],
)
def test_a_head_that_looks_for_the_end_of_each_text_is_estimated(estimates, config):
    [estimate] = estimates(config, [configuration(4)], gpu=GpuMemory(total_mib=8000))
    assert estimate.fits is True


def test_a_configuration_is_read_from_a_directory(estimates, tmp_path):
    CONFIG.save_pretrained(tmp_path)
    [from_folder] = estimates(tmp_path, [configuration(2)])
    [from_object] = estimates(CONFIG, [configuration(2)])
    [from_contents] = estimates(json.loads((tmp_path / "config.json").read_text()), [configuration(2)])
    assert from_folder == from_object == from_contents


def test_an_estimate_is_plain_data_for_json(estimates):
    [estimate] = estimates(CONFIG, [configuration(2)], gpu=GpuMemory(total_mib=8000))
    plain = json.loads(json.dumps(estimate.as_dict()))
    assert plain["params"] == configuration(2).as_dict()
    assert plain["fits"] is True
    assert {"peak_memory_mib", "lower_bound_mib", "upper_bound_mib"} < set(plain)


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
        (DistilBertConfig(), {"task": "causal-lm"}, "they have one for sequence-classification"),
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
            "longformer models can't be estimated, since aten._local_scalar_dense.default depends on the data",
        ),
    ],
)
def test_what_can_not_be_estimated_is_named_in_a_sentence(estimates, config, changes, message):
    settings = TraceSettings(**({"sequence_length": 16, "attention": "eager"} | changes))
    with pytest.raises(ValueError, match=message):
        estimates(config, [configuration(2)], settings=settings)


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "lion"}, {"attention": "flash"}, {"sequence_length": 0}, {"max_grad_norm": -1}],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=r"must be|require one of"):
        TraceSettings(**({"sequence_length": 16} | changes))


def test_a_gpu_must_hold_its_context():
    with pytest.raises(ValueError, match="must exceed its CUDA context"):
        GpuMemory(total_mib=400, context_mib=417)


def test_a_context_that_nobody_measured_is_assumed_and_widens_the_bounds(estimates):
    [told] = estimates(CONFIG, [configuration(2)], gpu=GpuMemory(context_mib=417))
    [untold] = estimates(CONFIG, [configuration(2)], gpu=GpuMemory())
    assert untold.peak_memory_mib == told.peak_memory_mib
    # From 274 to 1,343 with all code, where 417 and 128 of code are told.
    assert told.lower_bound_mib - untold.lower_bound_mib == pytest.approx(417 - 274)
    assert untold.upper_bound_mib - told.upper_bound_mib == pytest.approx(1343 - 417 - 128)


def test_what_fits_beside_a_small_context_alone_has_no_verdict(estimates):
    [told] = estimates(CONFIG, [configuration(2)], gpu=GpuMemory(context_mib=0, loaded_code_mib=0))
    verdicts = [
        estimates(CONFIG, [configuration(2)], gpu=GpuMemory(total_mib=context_mib + told.peak_memory_mib))[0].fits
        for context_mib in (417 + 128, 1342, 1343)
    ]
    assert verdicts == [None, None, True]


def test_the_upper_bound_leaves_at_least_a_hundredth_for_the_order_of_blocks(estimates):
    [estimate] = estimates(CONFIG, [configuration(2)], gpu=GpuMemory(context_mib=0, loaded_code_mib=0))
    assert estimate.upper_bound_mib >= 1.01 * estimate.peak_memory_mib


def test_gpus_are_named_once():
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_hopper_has_larger_workspaces_and_the_environment_may_set_its_own():
    assert HOPPER_BLAS.cublas_bytes == 32 * 1024 * 1024
    assert BlasWorkspace().cublas_bytes == 8_519_680
    assert BlasWorkspace.of_environment({"CUBLAS_WORKSPACE_CONFIG": ":16:8:32:2"}).cublas_bytes == 192 * 1024
