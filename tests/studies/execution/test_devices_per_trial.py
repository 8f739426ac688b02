"""A study whose trials take two devices: the effective batch counts them wherever it is said, and an export trains on two."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from exported_studies import TINY, made_up
from memory_storage import in_memory
from running import Recorder, SharedTrialServer, cache_folder, tiny_study
from stored_studies import params, record

from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.availability import check_batches, check_devices
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.fit import fit_study
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import Preparation, prepare
from tradeoff.studies.export.export import export, export_files
from tradeoff.studies.export.train import train_export
from tradeoff.studies.reporting.notes import study_note
from tradeoff.studies.reporting.text_tables import front_text_table
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.savings import lines
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.storage.study import open_study
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

ON_TWO = tiny_study(
    devices_per_trial=2,
    sampler="decoupled",
    reuse="effective-batch",
    space={
        "per_device_train_batch_size": [4, 8],
        "gradient_accumulation_steps": [1, 2],
        "gradient_checkpointing": False,
        "precision": "fp32",
    },
    limits={"effective_batch_size": {"min": 16}},
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, Recorder]:
    display = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "TrialServer", SharedTrialServer)
        storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/a.db"
        return read_results(run_study(ON_TWO, storage=storage, display=display, cache=cache_folder())), display


def two_devices(results: StudyResults) -> StudyResults:
    records = tuple(replace(one, num_devices=2) for one in results.records)
    return replace(results, records=records, config={**results.config, "devices_per_trial": 2})


def test_the_limits_count_the_devices() -> None:
    grid = [(p.per_device_train_batch_size, p.gradient_accumulation_steps) for p in ON_TWO.search_space().grid()]
    assert sorted(grid) == [(4, 2), (8, 1), (8, 2)]  # 16, 16 and 32 on two devices; 4 x 1 is 8


def test_a_search_trains_each_effective_batch_of_two_devices_once(searched: tuple[StudyResults, Recorder]) -> None:
    results, _ = searched
    trained = [one for one in results.records if one.outcome == "completed" and not one.is_derived]
    assert sorted(numeric_value(one, "effective_batch_size") or 0 for one in trained) == [16, 32]
    assert sorted({numeric_value(one, "effective_batch_size") for one in results.records if one.outcome == "completed"}) == [
        16,
        32,
    ]
    # 64 samples in steps of 16 and of 32.
    assert sorted(one.attributes["training"]["num_steps"] for one in trained) == [2, 4]


def test_the_estimated_time_of_a_training_on_two_devices_is_near_its_measured_one(
    searched: tuple[StudyResults, Recorder],
) -> None:
    results, _ = searched
    both = [
        (one.attributes["probe"]["estimated_train_time_s"], one.attributes["training"]["train_time_s"])
        for one in results.records
        if "probe" in one.attributes and "training" in one.attributes
    ]
    # An estimate that ignored the devices would be twice as high; the bounds leave room for a busy machine.
    assert all(0.2 < estimate / measured < 5 for estimate, measured in both)


def test_on_processors_a_line_says_what_it_is_good_for(searched: tuple[StudyResults, Recorder]) -> None:
    _, display = searched
    assert "2 ranks share this machine's processors: timings are not meaningful" in display.messages
    assert any(line.startswith("device: 2 x ") for line in display.messages)


def test_the_end_of_a_search_counts_what_was_trained_on_two_devices(searched: tuple[StudyResults, Recorder]) -> None:
    results, _ = searched
    assert "3 configurations" in lines(results)[0]
    assert "2 trained" in lines(results)[0]


def test_fit_runs_its_probes_on_two_devices_and_holds_half_of_the_samples_at_most() -> None:
    space = {"per_device_train_batch_size": 8, "precision": "fp32"}
    config = tiny_study(devices_per_trial=2, space=space, limits={"peak_memory_mib": 4000.0})
    with SharedTrialServer() as server:
        ready = prepare(config, server, Interrupts(), display=Recorder(), cache=cache_folder())
        asked: list[int] = []
        run_trial = ready.runner.run_trial

        class Watched:
            def run_trial(self, request, **settings):
                asked.append(request["num_ranks"])
                return run_trial(request, **settings)

        watched = Preparation(config=config, device=ready.device, space=ready.space, data=ready.data, runner=Watched())
        (found, *_) = fit_study(watched, on_probe=lambda parameters, outcome: None)
    assert found.batch == 32  # of 64 samples
    assert set(asked) == {2}


@pytest.mark.parametrize("devices", [0, -1, 65, "two"])
def test_a_number_of_devices_that_makes_no_sense_is_refused_by_its_name(devices: object) -> None:
    with pytest.raises(ValueError, match="devices_per_trial"):
        StudyConfig.model_validate({"devices_per_trial": devices})


def test_more_devices_than_there_are_is_one_sentence() -> None:
    card = {"kind": "cuda", "num_cards": 2}
    assert check_devices(2, card) is None
    with pytest.raises(TradeoffError, match="devices_per_trial must not exceed the number of visible GPUs, 2, got 3"):
        check_devices(3, card)


def test_a_batch_on_each_device_must_not_exceed_the_samples() -> None:
    space = ON_TWO.search_space()
    check_batches(space, 16, 2)
    with pytest.raises(TradeoffError, match="a batch on each of 2 devices must not exceed the 15 training samples, got 8"):
        check_batches(space, 15, 2)


def test_a_study_goes_on_with_the_same_number_of_devices_alone() -> None:
    device = {"kind": "cpu", "name": "Test CPU", "total_memory_mib": 8192.0}
    storage = in_memory()
    open_study(tiny_study(), storage, device)
    with pytest.raises(TradeoffError, match="devices_per_trial: 1 -> 2"):
        open_study(tiny_study(devices_per_trial=2), storage, device)


def test_tables_and_notes_count_the_devices() -> None:
    results = two_devices(made_up(record(3, (0.7, 10.0, 1000.0), params(4, 8))))
    header, rows = front_text_table(judged_front(results))
    assert rows[0][header.index("effective batch")] == "64"
    assert "their product, times the 2 devices that train it together" in study_note(results)


@pytest.mark.parametrize(("kind", "distributed_type"), [("cpu", "MULTI_CPU"), ("cuda", "MULTI_GPU")])
def test_an_export_says_how_many_devices_train_together(kind: str, distributed_type: str, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    results = two_devices(made_up(record(3, (0.7, 10.0, 1000.0), params(4, 8)), kind=kind))
    export(results, choose(results, Selection(trial=3)), tmp_path / "chosen")
    loaded = load_config_from_file(str(tmp_path / "chosen" / "accelerate_config.yaml"))
    assert (loaded.num_processes, loaded.distributed_type) == (2, distributed_type)
    provenance = yaml.safe_load((tmp_path / "chosen" / "tradeoff.yaml").read_text())
    assert (provenance["devices_per_trial"], provenance["effective_batch_size"]) == (2, 64)
    card = (tmp_path / "chosen" / "README.md").read_text()
    assert "on each of 2 devices" in card
    assert "torchrun --nproc_per_node 2 train.py" in card
    assert ("accelerate launch" in card) is (kind == "cuda")
    with pytest.raises(TradeoffError, match=r"and this configuration on 2 together; run torchrun --nproc_per_node 2 train\.py"):
        train_export(tmp_path / "chosen", tmp_path / "model")


@pytest.fixture
def script(searched: tuple[StudyResults, Recorder], tmp_path: Path) -> tuple[Path, float]:
    """The exported script of the training of effective batch 32, and the loss that the study measured."""
    results, _ = searched
    own = [one for one in results.records if one.outcome == "completed" and not one.is_derived]
    (trained,) = (one for one in own if numeric_value(one, "effective_batch_size") == 32)
    export(results, choose(results, Selection(trial=trained.number)), tmp_path / "chosen")
    return tmp_path / "chosen" / "train.py", trained.attributes["eval_loss"]


def test_the_exported_script_trains_as_the_study_did_under_torchrun(script: tuple[Path, float]) -> None:
    path, eval_loss = script
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^accuracy \S+$", done.stdout, re.MULTILINE)) == 1
    state = json.loads((path.parent / "model" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    losses = [line["eval_loss"] for line in state["log_history"] if "eval_loss" in line]
    assert losses[-1] == pytest.approx(eval_loss, rel=1e-5)
    assert (path.parent / "model" / "tokenizer.json").is_file()


def run_guard(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs what a script does before its first use of torch, which would take seconds to import, and says what CUDA sees."""
    guard = script.split("# As in the study")[0]
    head = "\n".join(
        line for line in guard.splitlines() if not re.match(r"(from|import) (torch|datasets|embedded|text_)", line)
    )
    head = re.sub(r"from transformers import \(.*?\)", "", head, flags=re.DOTALL)
    code = f"__file__ = 'train.py'\n{head}\nprint(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    inherited = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "CUDA_VISIBLE_DEVICES")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_exported_script_refuses_another_number_of_devices_at_once(script: tuple[Path, float]) -> None:
    done = run_guard(script[0].read_text())
    assert done.returncode == 1
    assert "trains on 2 devices together: torchrun --nproc_per_node 2 train.py" in done.stderr


def test_a_script_for_one_device_uses_one_of_several_cards_and_refuses_a_launcher_of_more() -> None:
    results = made_up(record(3, (0.7, 10.0, 1000.0), params(4, 8)), job=TINY)
    script = export_files(results, choose(results, Selection(trial=3)), output_dir="model")["train.py"]
    assert [run_guard(script, **seen).stdout.strip() for seen in ({}, {"CUDA_VISIBLE_DEVICES": "3,5"})] == ["0", "3"]
    assert run_guard(script, WORLD_SIZE="1").returncode == 0
    refused = run_guard(script, WORLD_SIZE="2")
    assert (refused.returncode, refused.stderr.strip()) == (1, "this configuration trains on one device: python train.py")
    assert TrialParameters(**results.records[0].params).effective_batch_size() == 32
