"""What `tradeoff train` reads may be somebody else's, or damaged: one sentence for what is wrong, before anything starts."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported_studies import TINY, made_up
from stored_studies import params, record

from tradeoff.objectives.data.contents import local_contents
from tradeoff.objectives.job.jobs import TextClassificationJob, parse_job
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import export
from tradeoff.studies.export.exported import read_export
from tradeoff.studies.export.train import train_export
from tradeoff.studies.results.selection import Selection, choose

BOMB = "&a0 [x]\n" + "".join(f"      - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    """An export of our own."""
    results = made_up(record(0, (0.25, 10.0, 100.0), params(8), training={"num_samples": 64}))
    export(results, choose(results, Selection()), tmp_path / "chosen")
    return tmp_path / "chosen"


def refusal(directory: Path) -> str:
    """The sentence with which a training is refused; the directory for its model is not made."""
    with pytest.raises(TradeoffError) as refused:
        train_export(directory, directory.parent / "model", say=lambda line: pytest.fail(f"it started: {line}"))
    assert not (directory.parent / "model").exists()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    return str(refused.value)


def changed(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = yaml.safe_load((directory / "tradeoff.yaml").read_text())
    change(content)
    (directory / "tradeoff.yaml").write_text(yaml.safe_dump(content))
    return directory


def test_an_export_of_our_own_is_read_as_it_was_written(chosen: Path) -> None:
    written = yaml.safe_load((chosen / "tradeoff.yaml").read_text())
    read = read_export(chosen)
    assert read["job"] == TINY.model_dump(mode="json")
    for name in ("parameters", "trial", "memory_mib", "measured"):
        assert read[name] == written[name]
    assert read["values"]["accuracy"] == {"value": 0.25}
    # What a job leaves out has its default, and is there when the training has ended.
    assert read_export(changed(chosen, lambda content: content.update(job={})))["job"] == TextClassificationJob().model_dump()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"job:\n  build: mine:build\n  kwargs:\n    x:\n      - {BOMB}", "it may hold at most"),
        ("[" * 20_000, "must be YAML"),
        ("{a: " * 20_000, "must be YAML"),
        ("x" * 1_000_001, "it may have at most 1,000,000 characters"),
        ("", "job: Field required"),
        ("- 1", "must hold keys and values, got list"),
        ("job: !!python/object/apply:os.system [touch hacked]", "could not determine a constructor"),
        ("job: {}\njob: {}", "written twice"),
        ("job: {build: mine:build, kwargs: {x: &a [*a]}}", "must not contain the alias"),
        ("trial: 1" + ":1" * 200_000, "a number may have at most 100 characters"),
        ("trial: 1" + ":1" * 2_000 + ".5", "a number may have at most 100 characters"),
        ("parameters: &a {x: *a}", "must be YAML"),
        ("\x00", "must be YAML"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_file_that_nobody_exported_is_refused(chosen: Path, text: str, problem: str) -> None:
    (chosen / "tradeoff.yaml").write_text(text)
    assert problem in refusal(chosen)


@pytest.mark.parametrize("key", ["job", "parameters", "study", "trial", "values", "memory_mib", "measured", "device"])
def test_a_key_that_is_missing_or_of_another_type_is_named(chosen: Path, key: str) -> None:
    for value in ([], "x", 1e400):
        assert key in refusal(changed(chosen, lambda content, value=value: content.update({key: value})))
    assert f"{key}: Field required" in refusal(changed(chosen, lambda content: content.pop(key)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", "8"),
        ("per_device_train_batch_size", 0),
        ("gradient_checkpointing", "yes"),
        ("precision", "fp8"),
        ("attn_implementation", "someone/kernel:attention"),
        ("optim", ["adamw_torch"]),
        ("speed", 3),
    ],
)
def test_a_parameter_that_no_study_has_is_refused(chosen: Path, name: str, value: Any) -> None:
    assert "parameters" in refusal(changed(chosen, lambda content: content["parameters"].update({name: value})))


def test_what_is_no_file_is_not_waited_for(chosen: Path, tmp_path: Path) -> None:
    assert "has no file tradeoff.yaml" in refusal(tmp_path / "missing")
    (chosen / "tradeoff.yaml").unlink()
    (chosen / "tradeoff.yaml").mkdir()
    assert "has no file tradeoff.yaml" in refusal(chosen)
    (chosen / "tradeoff.yaml").rmdir()
    os.mkfifo(chosen / "tradeoff.yaml")
    assert "has no file tradeoff.yaml" in refusal(chosen)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", "1" * 1_000_001, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_a_note_of_a_training_that_cannot_be_read_is_refused(chosen: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "model").mkdir()
    marker = tmp_path / "model" / "tradeoff-training.json"
    marker.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TradeoffError, match=r"has a tradeoff-training\.json that can't be read"):
        train_export(chosen, tmp_path / "model")
    marker.write_text(json.dumps({"job": 1}))
    with pytest.raises(TradeoffError, match="holds another training"):
        train_export(chosen, tmp_path / "model")


LONG = "x" * 300


@pytest.mark.parametrize("name", [LONG, "~nobody-of-this-name/x", "/root/\x00", f"{LONG}.csv", f"./{LONG}", f"{LONG}.gguf"])
def test_a_name_that_no_file_can_have_is_exported_and_fingerprinted_as_one_that_is_not_there(name: str, tmp_path: Path) -> None:
    results = made_up(record(0, (0.25, 10.0, 100.0), params(8)), job=TINY.model_copy(update={"model": name, "dataset": name}))
    export(results, choose(results, Selection()), tmp_path / "named")
    job = parse_job(read_export(tmp_path / "named")["job"])
    assert isinstance(job, TextClassificationJob)
    assert (job.model, local_contents(job)) == (name, {})
