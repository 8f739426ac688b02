"""`tradeoff plan` on a study file with a local configuration: no weights, no network, no GPU."""

import json
import sys
from pathlib import Path

import own_trainers
import pytest
from transformers import AlbertConfig, BertConfig, LongformerConfig, ViTConfig

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
    rows = printed(capsys, study_file=study_file, overrides=["limits.peak_memory_mib=500"], context_memory=417)
    assert {row["fits"] for row in rows} == {False}
    assert {row["fits"] for row in printed(capsys, study_file=study_file)} == {None}


def test_the_frontier_holds_the_largest_batch_of_each_class(capsys, study_file):
    rows = printed(capsys, study_file=study_file, device_memory=8000, frontier=True)
    # All of the 64 samples: the study's largest is 4.
    assert [row["params"]["per_device_train_batch_size"] for row in rows] == [64, 64]


def test_where_nothing_fits_the_smallest_need_is_said(capsys, study_file):
    plan(study_file, device_memory=450, overrides=["limits.peak_memory_mib=null"])
    out, err = capsys.readouterr()
    assert "no configuration fits: the smallest is certain to fit in 1," in err
    assert "none" in out


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
    assert [row["params"]["per_device_train_batch_size"] for row in frontier] == [64] * 4
    plan(study_file, device_memory=8000, overrides=searched)
    assert "length" in capsys.readouterr().out


def test_what_one_of_several_models_lacks_is_left_out_in_a_line_and_the_rest_is_planned(capsys, study_file, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    AlbertConfig(**sizes, embedding_size=16).save_pretrained(tmp_path / "albert")
    LongformerConfig(**sizes, attention_window=8).save_pretrained(tmp_path / "longformer")
    bert, albert, other = (str(tmp_path / name) for name in ("model", "albert", "longformer"))
    once = ["space.gradient_checkpointing=[false, true]", "space.gradient_accumulation_steps=1", "job.max_length=8"]
    searched = [*once, f"space.model=[{bert}, {albert}, {other}]", "space.per_device_train_batch_size=2"]
    plan(study_file, output_format="json", overrides=searched)
    out, err = capsys.readouterr()
    planned = [(row["params"]["model"], row["params"]["gradient_checkpointing"]) for row in json.loads(out)]
    assert planned == [(bert, False), (bert, True), (albert, False)]
    assert f"not planned: {albert} with checkpointing: albert models have no gradient checkpointing" in err
    assert err.count(f"not planned: {other}: the memory of longformer models can't be estimated") == 1


def test_a_mask_of_dropout_is_estimated(capsys, study_file):
    large = ["job.train_samples=4096", "space.per_device_train_batch_size=1024", "space.gradient_accumulation_steps=1"]
    without = printed(capsys, study_file=study_file, overrides=[*large, "job.dropout=0"])
    rows = printed(capsys, study_file=study_file, overrides=[*large, "space.dropout={low: 0.1, high: 0.4}"])
    assert rows[0]["lower_bound_mib"] > without[0]["lower_bound_mib"]


ONCE = ["space.per_device_train_batch_size=2", "space.gradient_accumulation_steps=1"]


def test_adapters_and_frozen_layers_have_rows_of_their_own(capsys, study_file):
    rows = printed(capsys, study_file=study_file, overrides=[*ONCE, "space.lora_rank=[null, 2, 2000]"])
    states = {row["params"]["lora_rank"]: row["parts"]["optimizer"] for row in rows}
    # Adapters of rank 2 have fewer weights than the model's 13 thousand, those of rank 2,000 many more.
    assert states[2] < states[None] < states[2000]
    rows = printed(capsys, study_file=study_file, overrides=[*ONCE, "space.frozen_layers=[0, 1]"])
    states = {row["params"]["frozen_layers"]: row["parts"]["optimizer"] for row in rows}
    assert states[1] < states[0]


def test_each_optimizer_and_attention_of_a_study_is_planned_unless_one_is_asked_for(capsys, study_file):
    searched = [*ONCE, "space.optim=[adamw_torch, sgd, lion_8bit]", "space.attn_implementation=[eager, sdpa]"]
    plan(study_file, output_format="json", overrides=searched)
    out, err = capsys.readouterr()
    states = {(row["params"]["optim"], row["params"]["attn_implementation"]): row["parts"] for row in json.loads(out)}
    assert set(states) == {(optimizer, attention) for optimizer in ("adamw_torch", "sgd") for attention in ("eager", "sdpa")}
    assert states["sgd", "eager"]["optimizer"] == 0 < states["adamw_torch", "eager"]["optimizer"]
    assert "eager lion_8bit: memory estimates require one of the optimizers" in err
    [row] = printed(capsys, study_file=study_file, overrides=searched, optimizer="sgd", attention="eager")
    assert {"optim", "attn_implementation"}.isdisjoint(row["params"])


def test_a_language_model_is_planned_with_the_loss_of_its_trainer(capsys):
    small = ["job.max_length=32", "space.precision=fp32", "space.gradient_checkpointing=false", "space.lora_rank=null"]
    rows = printed(capsys, preset="embedded-lm", overrides=[*small, *ONCE, "space.packing=[false, true]"])
    assert [row["params"]["packing"] for row in rows] == [False, True]
    # Two texts of 32 tokens, and a tile of 32,768 words for each that has a successor.
    assert all(row["lower_bound_mib"] - 274 > 62 * 32_768 * 4 / 1024**2 for row in rows)
    # A loop of one's own has all logits instead, of a vocabulary much smaller than a tile.
    [plain] = printed(capsys, preset="embedded-lm", overrides=[*small, *ONCE, "space.packing=false"], loop="plain")
    assert plain["lower_bound_mib"] < rows[0]["lower_bound_mib"]


def test_compiled_code_is_not_planned_and_that_is_said(capsys, study_file):
    plan(study_file, output_format="json", overrides=[*ONCE, "space.torch_compile=[false, true]"])
    out, err = capsys.readouterr()
    assert [row["params"]["torch_compile"] for row in json.loads(out)] == [False]
    assert "not planned: torch_compile" in err
    with pytest.raises(TradeoffError, match="memory is not estimated with torch_compile"):
        plan(study_file, overrides=[*ONCE, "space.torch_compile=[true]"])


def test_what_a_language_model_keeps_elsewhere_is_not_planned_searched_or_set(capsys):
    small = [
        "space.per_device_train_batch_size=4", "space.gradient_accumulation_steps=1", "space.packing=false",
        "space.gradient_checkpointing=false",
    ]  # fmt: skip
    plan(preset="embedded-lm", output_format="json", overrides=[*small, "space.activation_offloading=[false, true]"])
    out, err = capsys.readouterr()
    assert [row["params"]["activation_offloading"] for row in json.loads(out)] == [False]
    assert "not planned: activation_offloading" in err
    with pytest.raises(TradeoffError, match="memory is not estimated with activation_offloading"):
        plan(preset="embedded-lm", overrides=[*small, "job.activation_offloading=true"])


def test_each_of_several_devices_holds_the_buckets_of_its_gradients(capsys, study_file):
    [alone] = printed(capsys, study_file=study_file, overrides=ONCE)
    plan(study_file, output_format="json", overrides=[*ONCE, "devices_per_trial=2"])
    out, err = capsys.readouterr()
    [shared] = json.loads(out)
    assert shared["parts"]["gradients"] == pytest.approx(2 * alone["parts"]["gradients"], abs=0.1)
    assert "without what NCCL keeps" in err


def test_devices_that_share_a_model_need_less_each(capsys):
    small = [*ONCE, "job.max_length=32", "space.precision=fp32", "space.gradient_checkpointing=false", "space.packing=false"]
    overrides = [*small, "space.lora_rank=null", "devices_per_trial=8"]
    [each_holds_all] = printed(capsys, preset="embedded-lm", overrides=overrides)
    [shared] = printed(capsys, preset="embedded-lm", overrides=overrides, sharding="full_shard")
    # Of tensors whose rows can't be divided evenly, the first device has the most.
    assert shared["parts"]["optimizer"] == pytest.approx(each_holds_all["parts"]["optimizer"] / 8, rel=0.1, abs=0.1)


OWN = """
job: {{build: "own_trainers:{function}", python_path: {folder}, metric: null}}
space:
  per_device_train_batch_size: [2, 4]
  gradient_accumulation_steps: [1]
  gradient_checkpointing: [false]
  precision: [fp32, bf16]
  learning_rate: [1.0e-5, 1.0e-4]
"""


@pytest.fixture
def own_study(tmp_path):
    def write(function):
        path = tmp_path / f"{function}.yaml"
        path.write_text(OWN.format(function=function, folder=Path(own_trainers.__file__).parent))
        return path

    return write


def test_a_trainer_of_ones_own_is_planned_as_the_built_in_tasks_are(capsys, own_study):
    rows = printed(capsys, study_file=own_study("images"), device_memory=8000)
    assert [(row["params"]["per_device_train_batch_size"], row["params"]["precision"]) for row in rows] == [
        (2, "fp32"), (2, "bf16"), (4, "fp32"), (4, "bf16"),
    ]  # fmt: skip
    assert all(row["fits"] for row in rows)
    assert rows[0]["parts"]["optimizer"] == pytest.approx(2 * rows[0]["parts"]["weights"], rel=0.1) != 0


def test_a_trainer_of_ones_own_that_fails_is_said_in_a_sentence(own_study):
    with pytest.raises(TradeoffError, match=r"job.build 'own_trainers:broken' fails .*: RuntimeError: no such data"):
        plan(own_study("broken"))
    with pytest.raises(TradeoffError, match="--loop plain is for the built-in tasks"):
        plan(own_study("images"), loop="plain")
    with pytest.raises(TradeoffError, match="--sharding full_shard is for the built-in tasks"):
        plan(own_study("images"), sharding="full_shard")


def test_a_page_holds_the_tables_and_needs_nothing_but_itself(capsys, study_file, tmp_path):
    page = tmp_path / "memory.html"
    plan(study_file, device_memory=8000, output_format="html", output=page)
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    for title in ("Estimated peak memory, MiB", "The largest batch that fits in 8,000 MiB"):
        assert f"<h2>{title}</h2>" in text
    assert "The CUDA context is taken to be 417 MiB" in text
    assert "http" not in text
    assert text.count("<tr>") == 2 + 4 + 2


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
        ([], {"sharding": "full_shard"}, "set devices_per_trial to 2 or more"),
        ([], {"frontier": True}, "--frontier requires the GPU's memory"),
        ([], {"output": Path("memory.html")}, "--output is the file of an HTML page"),
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
