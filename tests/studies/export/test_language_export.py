"""Language models, exported and trained again: by the script alone to the same loss, by `tradeoff train`, and merged."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from exported_studies import made_up
from stored_studies import params, record

from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import EMBEDDED, Lora
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.export.export import export, export_files
from tradeoff.studies.export.train_script import modules, train_script
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.workers.run import run_study

TINY = CausalLMJob(
    train_samples=48, eval_samples=16, max_length=32, eval_max_length=48, epochs=1, learning_rate=1e-2,
    eval_batch_size=8, seed=3,
)  # fmt: skip
ANY = TrialParameters(per_device_train_batch_size=4)


def ran(*command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "TRADEOFF_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path, output: Path, *options: str) -> dict[str, Any]:
    main = "from tradeoff.studies.cli.main import main; main()"
    ran("-c", main, "train", str(folder), "--output", str(output), *options, folder=folder.parent)
    return dict(json.loads((output / "results.json").read_text()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("study")
    space = SpaceConfig(
        per_device_train_batch_size=[4],
        gradient_accumulation_steps=[2],
        gradient_checkpointing=[False],
        precision=["fp32"],
        lora_rank=[None, 4],
        packing=[False, True],
    )
    config = StudyConfig(name="real", job=TINY, space=space, sampler="grid", trials=4)
    return read_results(run_study(config, storage=f"sqlite:///{folder}/a.db", cache=folder / "cache"))


@pytest.fixture(scope="module")
def exports(study: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, TrialRecord]:
    """The export of each trial, by its directory."""
    folder = tmp_path_factory.mktemp("exports")
    found = {folder / f"packing {trial.params['packing']}, rank {trial.params['lora_rank']}": trial for trial in study.records}
    for output, trial in found.items():
        export(study, choose(study, Selection(trial=trial.number)), output)
    return found


@pytest.fixture(scope="module")
def printed(exports: dict[Path, TrialRecord]) -> str:
    """The output of all scripts, run in one process: importing the libraries takes most of the time."""
    folders = [folder.name for folder in exports]
    code = "import runpy, sys\nsys.path.insert(0, sys.argv[1])\nfor name in sys.argv[1:]:\n    print(name)\n"
    code += "    runpy.run_path(f'{name}/train.py')\nassert 'tradeoff' not in sys.modules\n"
    return ran("-c", code, *folders, folder=next(iter(exports)).parent)


def test_the_scripts_reach_the_loss_of_the_study(exports: dict[Path, TrialRecord], printed: str) -> None:
    assert len({trial.values["eval_loss"] for trial in exports.values()}) == 4
    for folder, trial in exports.items():
        assert trial.attributes["training"]["num_samples"] == 48  # packed or not: a sequence is no sample
        found = re.search(rf"^{folder.name}$.*?^eval_loss (\S+)$", printed, re.MULTILINE | re.DOTALL)
        assert found is not None, printed
        assert float(found[1]) == trial.values["eval_loss"], folder.name
        has_adapters = (folder / "model" / "adapter_model.safetensors").is_file()
        assert has_adapters == (trial.params["lora_rank"] is not None)


@pytest.mark.usefixtures("printed")
def test_adapters_are_loaded_by_peft_alone_and_generate_text_as_merged_ones_do(
    exports: dict[Path, TrialRecord], tmp_path: Path
) -> None:
    folder, trial = next((folder, trial) for folder, trial in exports.items() if trial.params["lora_rank"] is not None)
    results = train(folder, tmp_path / "adapters")
    assert results["measured"]["eval_loss"] == results["expected"]["eval_loss"] == trial.values["eval_loss"]
    # From the same point, after the same imports, which alone take 25 MiB; how much of its heap Python has free differs.
    assert results["measured"]["peak_memory_mib"] == pytest.approx(trial.values["peak_memory_mib"], abs=6.0)
    train(folder, tmp_path / "merged", "--merge")
    assert not list((tmp_path / "merged").glob("adapter*")) + list((tmp_path / "merged").glob("base_model"))
    code = """
import sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
texts = []
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loading = AutoModelForCausalLM if folder == "merged" else AutoPeftModelForCausalLM
    model = loading.from_pretrained(folder)
    messages = [{"role": "user", "content": "What does it say about the service?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    inputs.pop("token_type_ids", None)
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    texts.append(tokenizer.decode(tokens[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
assert "tradeoff" not in sys.modules
assert texts[0] and texts == texts[:1] * 3, texts
"""
    ran("-c", code, "adapters", str(folder / "model"), "merged", folder=tmp_path)


def test_a_script_makes_the_tokens_that_a_trial_trains_on(tmp_path: Path) -> None:
    """The scripts are run as far as their data, of each kind that there is."""
    from tradeoff.objectives.data.generated_conversations import generate_conversations
    from tradeoff.objectives.trainers.prepared_data import prepare

    talks = generate_conversations(40, seed=1)
    apart = [{"prompt": talk[-2]["content"], "completion": talk[-1]["content"], "label": 1} for talk in talks]
    tables = {
        "talks.jsonl": [{"messages": talk} for talk in talks],
        "apart.parquet": [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in talks],
        "apart.csv": apart,
        "texts.csv": [{"text": row["prompt"]} for row in apart],
    }
    for name, rows in tables.items():
        getattr(datasets.Dataset.from_list(rows), f"to_{name.rpartition('.')[2].replace('jsonl', 'json')}")(
            str(tmp_path / name)
        )
    changes = {"train_samples": 24, "eval_samples": 12}
    jobs = [TINY.model_copy(update=changes | {"dataset": str(tmp_path / name)}) for name in tables]
    jobs[0] = jobs[0].model_copy(update={"eval_dataset": str(tmp_path / "talks.jsonl"), "packing": True})
    for name, text in modules(jobs[0]).items():
        (tmp_path / name).write_text(text)
    shown = 'print("samples", json.dumps([list(each["input_ids"]) + list(each["labels"]) for each in (train, evaluation)]))\n'
    heads = [train_script(job, ANY, title="", expected={}).split("settings =")[0] + shown for job in jobs]
    (tmp_path / "all.py").write_text(f"for head in {heads!r}:\n    exec(head, {{'__file__': __file__}})\n")
    lines = [line for line in ran("all.py", folder=tmp_path).splitlines() if line.startswith("samples ")]
    for job, line in zip(jobs, lines, strict=True):
        prepared = prepare(job, tmp_path / "cache")
        parts = [prepared.packed if job.packing else prepared.train, prepared.eval]
        assert json.loads(line.removeprefix("samples ")) == [list(of["input_ids"]) + list(of["labels"]) for of in parts]


def test_an_export_holds_the_length_at_which_its_study_evaluates(tmp_path: Path) -> None:
    job = TINY.model_copy(update={"eval_max_length": None})
    results = made_up(record(0, (0.25, 10.0, 100.0), params(8) | {"max_length": 16}), job=job)
    config = {**results.config, "space": {"max_length": [16, 24]}}
    object.__setattr__(results, "config", config)
    files = export_files(results, choose(results, Selection()), output_dir="model")
    assert yaml.safe_load(files["tradeoff.yaml"])["job"]["eval_max_length"] == 24
    assert "encode(train, 16)" in files["train.py"]
    assert "encode(evaluation, 24)" in files["train.py"]


def test_the_arguments_are_those_of_trl(tmp_path: Path) -> None:
    from transformers import HfArgumentParser
    from trl import SFTConfig

    results = made_up(record(0, (0.25, 10.0, 100.0), params(8) | {"packing": True}), job=TINY)
    export(results, choose(results, Selection()), tmp_path / "chosen")
    parser = HfArgumentParser((SFTConfig,))
    by_file = parser.parse_json_file(str(tmp_path / "chosen" / "training_args.json"))[0].to_dict()
    by_flags = parser.parse_args_into_dataclasses(args=[], args_filename=str(tmp_path / "chosen" / "flags.txt"))[0].to_dict()
    assert {name for name in by_file if by_file[name] != by_flags[name]} <= {"output_dir"}
    assert (by_file["packing"], by_file["eval_packing"], by_file["max_length"]) == (True, False, 32)


def test_the_card_of_a_language_model_names_what_it_was_made_from() -> None:
    job = TINY.model_copy(update={"model": "someone/model", "dataset": "someone/talks", "lora": Lora(r=4)})
    results = made_up(record(0, (0.25, 10.0, 100.0), params(8)), job=job)
    card = export_files(results, choose(results, Selection()), output_dir="model")["README.md"]
    front_matter = yaml.safe_load(card.split("---\n")[1])
    (result,) = front_matter.pop("model-index")[0]["results"]
    assert (result["dataset"]["type"], result["metrics"][0]["value"]) == ("someone/talks", 0.25)
    assert front_matter == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "metrics": ["perplexity"],
        "base_model": "someone/model",
        "tags": ["base_model:adapter:someone/model", "lora"],
        "datasets": ["someone/talks"],
    }
    assert "What is trained are LoRA adapters of rank 4 (alpha 8, all-linear) of the model someone/model: `adapter" in card
    assert 'AutoPeftModelForCausalLM.from_pretrained("MODEL_DIRECTORY")' in card
    assert "HfArgumentParser(SFTConfig)" in card


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"packing": True, "lora": Lora(), "eval_samples": 0},
        {"model": "someone/model", "dropout": 0.1, "lora": Lora(target_modules=("q_proj",)), "frozen_layers": 1},
        {"dataset": "talks.jsonl", "eval_dataset": "more.jsonl", "frozen_layers": 1, "deterministic": False},
        {"model": "someone/model:tiny.gguf", "dropout": 0.1, "lora": Lora()},
        {"model": "tiny.gguf"},
        {"model": "someone/model", "lora": Lora(), "load_in_4bit": True},
        {"dataset": "someone/talks", "model": "someone/model", "train_samples": None, "trust_remote_code": True},
    ],
    ids=str,
)
def test_every_script_of_a_language_model_is_formatted_python_without_an_unused_name(settings: dict[str, Any]) -> None:
    text = train_script(CausalLMJob(**{"model": EMBEDDED, **settings}), ANY, title='a "title"', expected={})
    for command in (["check", "--select", "E,F,I,B,UP,SIM", "--ignore", "E402"], ["format", "--diff"]):
        ruff = ["ruff", *command, "--isolated", "--no-cache", "--line-length", "128", "-"]
        checked = subprocess.run([sys.executable, "-m", *ruff], input=text, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
