"""`tradeoff plan` on a study file with a local configuration: no weights, no network, no GPU."""

import json
import sys

import pytest
from transformers import AlbertConfig, BertConfig, LongformerConfig, T5Config, ViTConfig

from tradeoff.studies.cli.main import main
from tradeoff.studies.cli.plan import plan
from tradeoff.studies.errors import TradeoffError

STUDY = """
objectives: [train_time_s, peak_memory_mib]
job: {{model: {model}, dataset: random-tokens, eval_samples: 0, train_samples: 64, max_length: 16}}
space:
  per_device_train_batch_size: [2, 4]
  gradient_accumulation_steps: [1, 2]
  gradient_checkpointing: [false]
  precision: [fp32]
  learning_rate: [1.0e-5, 1.0e-4]
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def study_file(tmp_path):
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    config.save_pretrained(tmp_path / "model")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(model=tmp_path / "model"))
    return path


def printed(capsys, **arguments):
    plan(output_format="json", **arguments)
    return json.loads(capsys.readouterr().out)


def test_json_holds_a_row_for_each_configuration_that_differs_in_memory(capsys, study_file):
    rows = printed(capsys, study_file=study_file, device_memory=8000)
    # Two learning rates need the same memory: 2 batches x 2 accumulations.
    assert len(rows) == 4
    assert all(row["fits"] for row in rows)
    assert {"params", "peak_memory_mib", "lower_bound_mib", "upper_bound_mib", "fits"} <= set(rows[0])


def test_the_limit_of_the_study_is_the_cards_memory_unless_one_is_given(capsys, study_file):
    rows = printed(capsys, study_file=study_file, overrides=["limits.peak_memory_mib=500"])
    assert {row["fits"] for row in rows} == {False}
    assert {row["fits"] for row in printed(capsys, study_file=study_file)} == {None}


def test_the_frontier_holds_the_largest_batch_of_each_class(capsys, study_file):
    rows = printed(capsys, study_file=study_file, device_memory=8000, frontier=True)
    assert [row["params"]["per_device_train_batch_size"] for row in rows] == [4, 4]


def test_a_larger_context_is_added_to_the_prediction(capsys, study_file):
    small = printed(capsys, study_file=study_file, context_memory=100)
    large = printed(capsys, study_file=study_file, context_memory=600)
    assert large[0]["peak_memory_mib"] - small[0]["peak_memory_mib"] == 500


def test_known_cards_are_listed_with_what_fits_on_them(capsys, study_file):
    rows = printed(capsys, study_file=study_file, devices=True)
    assert rows[0] == {"device": "Tesla P4", "memory_mib": 7611, "configurations": 4, "fitting": 4, "largest_batch": 4}
    assert [row["memory_mib"] for row in rows] == sorted(row["memory_mib"] for row in rows)


def test_the_table_shows_every_part_of_the_peak(capsys, study_file):
    plan(study_file, device_memory=8000)
    out = capsys.readouterr().out
    for word in ("context", "weights", "gradients", "optimizer", "activations", "workspace", "retained", "The largest batch"):
        assert word in out


def test_each_model_and_length_has_rows_of_its_own(capsys, study_file, tmp_path):
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    config.save_pretrained(tmp_path / "larger")
    small, larger = str(tmp_path / "model"), str(tmp_path / "larger")
    searched = [f"space.model=[{small}, {larger}]", "space.max_length=[16, 64]", "space.gradient_accumulation_steps=[1]"]
    rows = printed(capsys, study_file=study_file, device_memory=8000, overrides=searched)
    names = ("model", "max_length", "per_device_train_batch_size")
    peaks = {tuple(row["params"][name] for name in names): row for row in rows}
    assert len(peaks) == len(rows) == 8
    for batch in (2, 4):
        assert peaks[small, 16, batch]["lower_bound_mib"] < peaks[larger, 16, batch]["lower_bound_mib"]
        assert peaks[small, 16, batch]["lower_bound_mib"] < peaks[small, 64, batch]["lower_bound_mib"]
    frontier = printed(capsys, study_file=study_file, device_memory=8000, overrides=searched, frontier=True)
    assert [row["params"]["per_device_train_batch_size"] for row in frontier] == [4] * 4
    plan(study_file, device_memory=8000, overrides=searched)
    assert "length" in capsys.readouterr().out


def test_what_one_of_several_models_lacks_is_left_out_in_a_line_and_the_rest_is_planned(capsys, study_file, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    AlbertConfig(**sizes, embedding_size=16).save_pretrained(tmp_path / "albert")
    t5 = T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0)
    t5.save_pretrained(tmp_path / "t5")
    bert, albert, other = (str(tmp_path / name) for name in ("model", "albert", "t5"))
    once = ["space.gradient_checkpointing=[false, true]", "space.gradient_accumulation_steps=1", "job.max_length=8"]
    searched = [*once, f"space.model=[{bert}, {albert}, {other}]", "space.per_device_train_batch_size=2"]
    plan(study_file, output_format="json", overrides=searched)
    out, err = capsys.readouterr()
    planned = [(row["params"]["model"], row["params"]["gradient_checkpointing"]) for row in json.loads(out)]
    assert planned == [(bert, False), (bert, True), (albert, False)]
    assert f"not planned: {albert} with checkpointing: albert models have no gradient checkpointing" in err
    assert err.count(f"not planned: {other}: the memory of t5 models can't be estimated") == 1


def test_a_mask_of_dropout_is_estimated_and_what_can_not_be_is_said_in_a_line(capsys, study_file):
    large = ["job.train_samples=4096", "space.per_device_train_batch_size=1024", "space.gradient_accumulation_steps=1"]
    without = printed(capsys, study_file=study_file, overrides=[*large, "job.dropout=0"])
    searched = ["space.dropout={low: 0.1, high: 0.4}", "space.lora_rank=[null, 8]"]
    plan(study_file, output_format="json", overrides=[*large, *searched])
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert {row["params"]["lora_rank"] for row in rows} == {None}
    assert rows[0]["lower_bound_mib"] > without[0]["lower_bound_mib"]
    assert "not planned for: adapters and frozen layers; a study's probes and tradeoff fit measure that" in err


def test_a_study_that_trains_adapters_alone_has_no_plan(study_file):
    with pytest.raises(TradeoffError, match="is not estimated with adapters and frozen layers; tradeoff fit measures it"):
        plan(study_file, overrides=["job.frozen_layers=1"])


def test_the_embedded_study_needs_no_file(capsys):
    rows = printed(capsys, preset="embedded", overrides=["space.precision=fp32", "space.per_device_train_batch_size=8"])
    assert {row["params"]["per_device_train_batch_size"] for row in rows} == {8}


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        (["job.model=./missing"], {}, "no model configuration at"),
        (["job.optim=lion_8bit"], {}, "memory estimates require one of the optimizers"),
        ([], {"device_memory": 100}, "must exceed its CUDA context"),
        ([], {"sequence_length": 4000}, "must not exceed the 512 positions"),
        ([], {"frontier": True}, "--frontier requires the GPU's memory"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(study_file, overrides, arguments, message):
    with pytest.raises(TradeoffError, match=message):
        plan(study_file, overrides=overrides, **arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no model configuration at"),
        (
            LongformerConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                vocab_size=50,
                attention_window=8,
            ),
            "aten._local_scalar_dense.default depends on the data: probes measure it anyway",
        ),
        (ViTConfig(), "vit models have no head for sequence-classification: choose another model"),
    ],
)
def test_the_command_ends_with_status_2_and_says_what_still_works(capsys, tmp_path, study_file, monkeypatch, config, message):
    model = tmp_path / "other"
    if config is not None:
        config.save_pretrained(model)
    monkeypatch.setattr(sys, "argv", ["tradeoff", "plan", str(study_file), "--set", f"job.model={model}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said
