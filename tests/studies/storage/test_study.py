import importlib
from pathlib import Path
from typing import Any

import optuna
import pytest
from running import tiny_job, tiny_study

from tradeoff.objectives.data.contents import custom_contents, local_contents
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.study import changed_code, check_contents, open_study

CPU = {"kind": "cpu", "name": "a processor", "precisions": ["fp32", "bf16"], "total_memory_mib": 8000.0}


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    return open_storage(f"sqlite:///{tmp_path}/a.db")


def refusal(storage: Any, device: dict[str, Any] = CPU, **settings: Any) -> str:
    open_study(tiny_study(), storage, CPU)
    with pytest.raises(TradeoffError) as caught:
        open_study(tiny_study(**settings), storage, device)
    return str(caught.value)


def test_a_new_study_has_the_directions_names_and_settings_of_its_config(storage: Any) -> None:
    study = open_study(tiny_study(objectives=("peak_memory_mib", "accuracy")), storage, CPU)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["peak_memory_mib", "accuracy"]
    assert study.user_attrs["device"] == CPU
    assert study.user_attrs["config"]["job"]["train_samples"] == 64
    assert "optuna" in study.user_attrs["versions"]


def test_a_study_goes_on_with_the_same_config(storage: Any) -> None:
    open_study(tiny_study(), storage, CPU).add_trial(optuna.trial.create_trial(values=[0.5, 1.0, 2.0]))
    assert len(open_study(tiny_study(), storage, CPU).trials) == 1


def test_the_number_of_trials_the_sampler_and_the_time_limit_may_change(storage: Any) -> None:
    open_study(tiny_study(), storage, CPU)
    study = open_study(tiny_study(trials=9, sampler="tpe", limits={"trial_time_s": 5}), storage, CPU)
    assert study.user_attrs["config"]["trials"] == 9


def test_another_job_is_refused_with_every_key_that_differs(storage: Any) -> None:
    assert refusal(storage, job=tiny_job(epochs=2, seed=7).model_dump()) == (
        "the study 'tiny' exists with other settings; choose another name, or set these back:"
        " job.epochs: 1.0 -> 2.0; job.seed: 42 -> 7"
    )


def test_another_space_is_refused(storage: Any) -> None:
    space = {"per_device_train_batch_size": [8, 32], "gradient_accumulation_steps": [1, 2], "gradient_checkpointing": False,
             "precision": "fp32"}  # fmt: skip
    assert "space.per_device_train_batch_size: [8, 16] -> [8, 32]" in refusal(storage, space=space)


def test_other_objectives_are_refused(storage: Any) -> None:
    text = refusal(storage, objectives=("accuracy", "train_time_s"))
    assert "objectives: ['accuracy', 'train_time_s', 'peak_memory_mib'] -> ['accuracy', 'train_time_s']" in text


def test_another_memory_budget_is_refused(storage: Any) -> None:
    assert "limits.peak_memory_mib: None -> 100.0" in refusal(storage, limits={"peak_memory_mib": 100})


def test_another_range_of_effective_batch_sizes_is_refused(storage: Any) -> None:
    text = refusal(storage, limits={"effective_batch_size": {"max": 16}})
    assert "limits.effective_batch_size.max: None -> 16" in text


def test_another_device_is_refused_by_name(storage: Any) -> None:
    text = refusal(storage, CPU | {"name": "a card"})
    assert text == (
        "the study 'tiny' was measured on a processor, and this machine has a card: times and memory can't be compared;"
        " choose another name"
    )


def test_a_refused_study_keeps_its_config(storage: Any) -> None:
    refusal(storage, trials=9, limits={"peak_memory_mib": 100})
    stored = optuna.load_study(study_name="tiny", storage=storage).user_attrs["config"]
    assert (stored["trials"], stored["limits"]["peak_memory_mib"]) == (3, None)


def test_a_study_that_someone_else_made_is_refused(storage: Any) -> None:
    study = optuna.create_study(study_name="tiny", storage=storage, directions=["maximize", "minimize", "minimize"])
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0, 2.0]))
    with pytest.raises(TradeoffError, match="the study 'tiny' was not created by tradeoff; choose another name"):
        open_study(tiny_study(), storage, CPU)


def test_someone_elses_empty_study_with_other_directions_is_refused(storage: Any) -> None:
    optuna.create_study(study_name="tiny", storage=storage, directions=["maximize"])
    with pytest.raises(TradeoffError, match="the study 'tiny' was not created by tradeoff; choose another name"):
        open_study(tiny_study(), storage, CPU)


def test_a_creation_that_was_cut_short_is_completed(storage: Any) -> None:
    optuna.create_study(study_name="tiny", storage=storage, directions=["maximize", "minimize", "minimize"])
    study = open_study(tiny_study(), storage, CPU)
    assert study.metric_names == ["accuracy", "train_time_s", "peak_memory_mib"]
    assert study.user_attrs["device"] == CPU


def with_data(folder: Path, text: str, **settings: Any) -> tuple[Any, dict[str, str]]:
    """A study of a CSV with this text, and the fingerprints of its data."""
    folder.mkdir(exist_ok=True)
    (folder / "reviews.csv").write_text(text)
    job = tiny_job(dataset=str(folder / "reviews.csv"))
    return tiny_study(job=job.model_dump(), **settings), local_contents(job)


def test_data_that_has_changed_under_the_same_name_is_refused(storage: Any, tmp_path: Path) -> None:
    config, contents = with_data(tmp_path, "text,label\ngood,1\n")
    study = open_study(config, storage, CPU, contents)
    assert study.user_attrs["contents"] == contents
    config, contents = with_data(tmp_path, "text,label\ngood,0\n", trials=9)
    with pytest.raises(TradeoffError, match=r"the content of .*reviews\.csv \(train\) must be that which the study 'tiny'"):
        open_study(config, storage, CPU, contents)
    assert study.user_attrs["config"]["trials"] != 9
    with pytest.raises(TradeoffError, match=r"changed from 18 bytes, sha256 \w{12} to 18 bytes, sha256 \w{12}: choose another"):
        check_contents(study, config, contents)


def test_data_that_was_moved_or_copied_is_the_same(storage: Any, tmp_path: Path) -> None:
    open_study(*(with_data(tmp_path / "a", "text,label\ngood,1\n")[0], storage, CPU), contents={"train": "1 bytes, sha256 a"})
    config, _ = with_data(tmp_path / "b", "text,label\ngood,1\n")
    study = open_study(config, storage, CPU, contents={"train": "1 bytes, sha256 a", "model": "2 bytes, sha256 b"})
    assert study.user_attrs["contents"] == {"train": "1 bytes, sha256 a", "model": "2 bytes, sha256 b"}
    assert study.user_attrs["config"]["job"]["dataset"] == str(tmp_path / "b" / "reviews.csv")
    other = config.model_copy(update={"job": tiny_job(dataset="yelp_review_full")})
    with pytest.raises(TradeoffError, match=r"job\.dataset: 'a local file' -> 'yelp_review_full'"):
        open_study(other, storage, CPU)


def test_a_file_that_a_custom_job_names_is_part_of_the_study_and_a_mended_module_is_a_line(
    storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "contents_module.py").write_text("def build(args): ...\n")
    (tmp_path / "rows.txt").write_text("1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("contents_module")
    kwargs = {"rows": str(tmp_path / "rows.txt"), "size": 3, "name": "x" * 5000, "null": "\0"}
    job = CustomJob(build="contents_module:build", kwargs=kwargs)
    config = tiny_study(job=job.model_dump(), objectives=("eval_loss", "train_time_s"))
    before = custom_contents(job)
    assert set(before) == {"kwargs.rows", "build"}
    study = open_study(config, storage, CPU, before)
    assert changed_code(study, config, before) is None
    (tmp_path / "contents_module.py").write_text("def build(args): return 1\n")
    mended = custom_contents(job)
    check_contents(study, config, mended)
    assert "the code of contents_module:build has changed" in str(changed_code(study, config, mended))
    (tmp_path / "rows.txt").write_text("2\n")
    with pytest.raises(TradeoffError, match=r"the content of .*rows\.txt \(kwargs\.rows\) must be"):
        check_contents(study, config, custom_contents(job))


def test_a_study_of_a_version_that_had_fewer_settings_goes_on(storage: Any) -> None:
    study = open_study(tiny_study(), storage, CPU)
    older = study.user_attrs["config"]
    del older["job"]["frozen_layers"]
    older["space"] |= {"optim": None, "padding": None}
    study.set_user_attr("config", older)
    assert open_study(tiny_study(), storage, CPU).study_name == "tiny"
