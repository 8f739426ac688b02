"""The files of an export, read by the programs they are for."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from exported_studies import TINY, made_up
from forked import run_python
from running import SharedTrialServer
from stored_studies import params, record

from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.cuda import CudaDevice
from tradeoff.objectives.job.jobs import AnyJob, CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, Lora
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.export.export import export
from tradeoff.studies.export.export_files import flags
from tradeoff.studies.export.memory_advice import memory_to_leave_free_mib
from tradeoff.studies.export.train_script import modules, train_script
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

MIXED = record(3, (0.7, 10.0, 1000.0), params(4, 8, checkpointing=True, precision="bf16"), context_mib=400.0)
ANY = TrialParameters(per_device_train_batch_size=4)
PLAIN = record(5, (0.8, 20.0, 2000.0), params(32))


def exported(tmp_path: Path, results: StudyResults, number: int) -> Path:
    export(results, choose(results, Selection(trial=number)), tmp_path / "chosen")
    return tmp_path / "chosen"


def run_script(script: Path) -> str:
    """Runs a script as a user would, in another folder; returns what it printed."""
    done = run_python(str(script), folder=script.parent.parent, environment={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    return done.stdout


def local_job(folder: Path) -> TextClassificationJob:
    """A model with weights in a folder, and a CSV file of stars, padded to the longest of each batch."""
    from transformers import AutoModelForSequenceClassification

    from tradeoff.objectives.data.reviews import generate_reviews
    from tradeoff.objectives.trainers.embedded import embedded_model_config
    from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer

    tokenizer = reviews_tokenizer()
    config = embedded_model_config(vocab_size=len(tokenizer), max_length=32, num_labels=5)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"review": review.text, "stars": review.stars} for review in generate_reviews(120, seed=1)]
    datasets.Dataset.from_list(rows).to_csv(str(folder / "reviews.csv"))
    changes = {
        "model": str(folder / "model"), "dataset": str(folder / "reviews.csv"), "text_column": "review",
        "label_column": "stars", "padding": "longest",
    }  # fmt: skip
    return TINY.model_copy(update=changes)


@pytest.fixture(scope="module", params=["embedded", "local"])
def real_study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("study")
    # The data of the second is padded to the longest of each batch by the job; here the first does so by what is searched.
    knobs: dict[str, Any] = {}
    if request.param == "embedded":
        knobs = {"optim": ["adafactor"], "attn_implementation": ["eager"], "padding": ["longest"]}
        knobs |= {"train_sampling_strategy": ["group_by_length"]}
    config = StudyConfig(
        name="real",
        job=TINY if request.param == "embedded" else local_job(folder),
        space=SpaceConfig(
            per_device_train_batch_size=[4, 8],
            gradient_accumulation_steps=[2],
            gradient_checkpointing=[False],
            precision=["fp32"],
            **knobs,
        ),
        sampler="grid",
        memory_estimate="off",
        trials=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "TrialServer", SharedTrialServer)
        return read_results(run_study(config, storage=f"sqlite:///{folder}/a.db", cache=folder / "cache"))


def test_the_written_script_reaches_the_accuracy_of_the_study(real_study: StudyResults, tmp_path: Path) -> None:
    # By its number: so small a training may be no better than a constant answer.
    best = max(real_study.records, key=lambda record: record.values["accuracy"])
    choice = choose(real_study, Selection(trial=best.number))
    export(real_study, choice, tmp_path / "chosen")
    printed = run_script(tmp_path / "chosen" / "train.py")
    found = re.search(r"^accuracy (\S+)$", printed, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == choice.record.values["accuracy"]
    # Few samples give few different accuracies; the loss tells whether it is the same training.
    state = json.loads((tmp_path / "chosen" / "model" / "trainer_state.json").read_text())
    arguments = json.loads((tmp_path / "chosen" / "training_args.json").read_text())
    for name in ("optim", "train_sampling_strategy"):
        assert arguments.get(name) == choice.record.params.get(name, arguments.get(name))
    losses = [line["eval_loss"] for line in state["log_history"] if "eval_loss" in line]
    assert losses[-1] == pytest.approx(choice.record.attributes["eval_loss"], rel=1e-6)
    assert (tmp_path / "chosen" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "chosen" / "model" / "tokenizer.json").is_file()


def test_the_accelerate_configuration_loads_and_has_the_precision(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = exported(tmp_path, made_up(MIXED, PLAIN), 3)
    loaded = load_config_from_file(str(folder / "accelerate_config.yaml"))
    assert loaded.mixed_precision == "bf16"
    assert loaded.num_processes == 1
    assert loaded.use_cpu is True
    assert loaded.distributed_type == "NO"


def test_full_precision_on_a_card_is_no_mixed_precision_and_no_cpu(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = exported(tmp_path, made_up(PLAIN, kind="cuda"), 5)
    loaded = load_config_from_file(str(folder / "accelerate_config.yaml"))
    assert (loaded.mixed_precision, loaded.use_cpu) == ("no", False)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_the_flags_mean_what_the_json_file_means(tmp_path: Path) -> None:
    from transformers import HfArgumentParser, TrainingArguments

    folder = exported(tmp_path, made_up(MIXED), 3)
    parser = HfArgumentParser((TrainingArguments,))
    by_file = parser.parse_json_file(str(folder / "training_args.json"))[0].to_dict()
    by_flags = parser.parse_args_into_dataclasses(args=[], args_filename=str(folder / "flags.txt"))[0].to_dict()
    different = {name for name in by_file if by_file[name] != by_flags[name]}
    assert different <= {"output_dir", "logging_dir"}
    assert by_flags["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert by_flags["output_dir"] == "model"


@pytest.mark.parametrize("value", ["linear --output_dir /", "linear\n--push_to_hub True", "*", "$(id)", "", "a;b", "\u2028"])
def test_a_flag_never_becomes_two(value: str) -> None:
    with pytest.raises(ValueError, match="the value of a flag must be a word"):
        flags({"lr_scheduler_type": value})


def test_flags_hold_no_none_and_are_left_out_where_a_value_is_more_than_a_word(tmp_path: Path) -> None:
    assert flags({"neftune_noise_alpha": None, "optim_args": "rank=4,a=1"}) == "--optim_args rank=4,a=1\n--output_dir model\n"
    words = {"optim_target_modules": ".*attention.*", "neftune_noise_alpha": None}
    folder = exported(tmp_path, made_up(record(0, (0.7, 10.0, 1000.0), params(4) | words)), 0)
    assert not (folder / "flags.txt").exists()
    written = json.loads((folder / "training_args.json").read_text())
    assert (written["optim_target_modules"], written["neftune_noise_alpha"]) == (".*attention.*", None)


def test_the_readme_shows_the_whole_front_and_marks_the_chosen_one(tmp_path: Path) -> None:
    text = (exported(tmp_path, made_up(MIXED, PLAIN), 3) / "README.md").read_text()
    assert "| **3** | **4** | **8** | **on** | **bf16** | **0.700** | **10.00** | **1,000** | **chosen, knee, lowest" in text
    assert "| 5 | 32 | 1 | off | fp32 | 0.800 | 20.00 | 2,000 | highest accuracy |" in text
    assert text.startswith("---\nlibrary_name: transformers\n")


def test_the_readme_says_which_values_the_trial_did_not_measure(tmp_path: Path) -> None:
    derived = replace(PLAIN, sources={"accuracy": "trained in trial 3", "train_time_s": "probe"})
    folder = exported(tmp_path, made_up(MIXED, derived), 5)
    text = (folder / "README.md").read_text()
    assert "**0.800~** | **20.00~** | **2,000** |" in text
    assert "The accuracy was not measured by this trial itself: trained in trial 3." in text
    assert "~ measured by another trial" in text
    assert "the study has accuracy 0.8, trained in trial 3." in (folder / "train.py").read_text()


def test_a_readme_of_values_that_were_all_measured_marks_none(tmp_path: Path) -> None:
    assert "~" not in (exported(tmp_path, made_up(MIXED), 3) / "README.md").read_text()


def test_a_chosen_trial_that_is_not_on_the_front_is_shown_with_it(tmp_path: Path) -> None:
    dominated = record(6, (0.7, 30.0, 3000.0), params(8))
    text = (exported(tmp_path, made_up(PLAIN, dominated), 6) / "README.md").read_text()
    assert "| 5 | 32 |" in text
    assert "| **6** | **8** |" in text


def test_the_memory_to_leave_free_counts_libraries_on_a_cpu_and_a_margin_of_a_twentieth(tmp_path: Path) -> None:
    figures = {"peak_memory_mib": 1000.0, "context_mib": 400.0}
    assert memory_to_leave_free_mib(figures, CpuDevice) == 1470
    assert memory_to_leave_free_mib(figures, CudaDevice) == 1050
    assert memory_to_leave_free_mib({}, CudaDevice) is None
    assert "Leave 1,470 MiB free." in (exported(tmp_path, made_up(MIXED), 3) / "README.md").read_text()


def test_random_tokens_get_no_script_and_the_readme_says_why(tmp_path: Path) -> None:
    job = TINY.model_copy(update={"dataset": RANDOM_TOKENS, "eval_samples": 0})
    folder = exported(tmp_path, made_up(MIXED, job=job), 3)
    assert not (folder / "train.py").exists()
    assert "there is nothing to train" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="random-tokens"):
        train_script(job, ANY, title="", expected={})


def test_a_hub_job_loads_the_same_splits_columns_and_samples() -> None:
    job = TextClassificationJob(
        model="bert-base-uncased", dataset="Yelp/yelp_review_full", train_samples=1000, eval_samples=500, data_seed=7
    )
    text = train_script(job, ANY, title="trial 1", expected={"learned": "0.6, measured", "time": "1.20 ± 0.10"})
    compile(text, "train.py", "exec")
    assert 'load_dataset("Yelp/yelp_review_full", None, split=split)' in text
    assert 'parts = [read("train"), read("test")]' in text
    assert "part.shuffle(seed=7)" in text
    assert "train = parts[0].select(range(1000))\nevaluation = parts[1].select(range(500))\n" in text
    assert '    "bert-base-uncased",\n    dtype=torch.float32,\n    ignore_mismatched_sizes=True,' in text
    assert (
        '    num_labels=5,\n    problem_type="single_label_classification",\n    pad_token_id=tokenizer.pad_token_id,\n)'
        in text
    )


DATASETS = ("reviews.csv", "reviews.jsonl", "reviews.parquet", "someone/reviews")
CHANGES: tuple[dict[str, object], ...] = ({}, {"eval_samples": 0}, {"train_samples": None})


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        *((dataset, changes) for dataset in DATASETS for changes in CHANGES),
        ("reviews.tsv.gz", {"eval_dataset": "more.csv", "text_pair_column": "reply", "model": EMBEDDED}),
        ("reviews.csv", {"model": EMBEDDED, "lora": Lora(), "dropout": 0.1, "eval_samples": 0}),
        ("someone/reviews", {"lora": Lora(target_modules="query,value"), "frozen_layers": 2, "trust_remote_code": True}),
        ("reviews.csv", {"frozen_layers": 2, "dropout": 0.1}),
    ],
)
def test_every_script_is_formatted_python_without_an_unused_name(dataset: str, changes: dict[str, object]) -> None:
    job = TextClassificationJob(**{"dataset": dataset, "padding": "longest", "deterministic": False, **changes})
    parameters = ANY if changes else ANY.replace(label_smoothing_factor=0.1)
    text = train_script(job, parameters, title='a "quoted" \\ title', expected={} if changes else {"time": "1.20"})
    compile(text, "train.py", "exec")
    # E402: torch reads the environment when it is imported.
    for command in (["check", "--select", "E,F,I,B,UP,SIM", "--ignore", "E402"], ["format", "--diff"]):
        ruff = ["ruff", *command, "--isolated", "--no-cache", "--line-length", "128", "-"]
        checked = subprocess.run([sys.executable, "-m", *ruff], input=text, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr


HOSTILE = 'a\nimport os\r"""\nimport os # {{ 1 }} \x0c\x00\\" \u2028 \''


def hub_job(text: str) -> AnyJob:
    return TextClassificationJob(dataset=text, dataset_config=text, model=text, text_column=text, train_split=text)


def file_job(text: str) -> AnyJob:
    return TextClassificationJob(dataset=f"{text}.csv", eval_dataset=f"{text}.csv", text_column=text, label_column=f"{text}2")


def custom_job(text: str) -> AnyJob:
    return CustomJob(build="stars:build", python_path=text, kwargs={text: text}, metric="f1", direction="maximize")


@pytest.mark.parametrize("job_of", [lambda text: TINY, hub_job, file_job, custom_job])
def test_no_text_of_a_study_becomes_code(job_of: Callable[[str], AnyJob]) -> None:
    """The script of texts that hold line breaks and quotes has the statements of one that holds none."""
    parameters = ANY.replace(attn_implementation="eager")

    def statements(text: str) -> list[str]:
        script = train_script(job_of(text), parameters, title=text, expected={"learned": text, "time": text})
        return [type(node).__name__ for node in ast.walk(ast.parse(script.encode("utf-8")))]

    assert statements(HOSTILE) == statements("plain")


def test_a_script_reads_local_files_as_the_study_does(tmp_path: Path) -> None:
    """The scripts are run as far as their data; what they would train on is compared with what a trial trains on."""
    from tradeoff.objectives.trainers.prepared_data import prepare

    words = ("awful", "fine", "great", "poor", "so-so")
    rows = [{"review": f"word{number}, None {number}", "reply": "yes", "stars": number % 5 + 1} for number in range(40)]
    rows[3]["review"] = "None"
    table = datasets.Dataset.from_list(rows)
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    table.to_csv(str(tmp_path / "reviews.csv"))
    table.to_json(str(tmp_path / "reviews.jsonl"))
    table.to_parquet(str(tmp_path / "reviews.parquet"))
    frame = table.to_pandas()
    frame.to_csv(tmp_path / "reviews.tsv.gz", sep="\t", index=False, encoding="utf-16")
    frame.assign(stars=[words[star - 1] for star in frame["stars"]]).to_csv(tmp_path / "words.csv", index=False)
    frame[:20].assign(stars=[words[star - 1] for star in frame["stars"][:20]]).to_json(tmp_path / "some.json", orient="records")
    columns = {"text_column": "review", "label_column": "stars", "train_samples": 24, "eval_samples": 12}
    of_job = {
        "reviews.csv": {},
        "reviews.jsonl": {"text_pair_column": "reply"},
        "reviews.parquet": {},
        "reviews.tsv.gz": {"encoding": "utf-16"},
        "words.csv": {"eval_dataset": str(tmp_path / "some.json")},
    }
    jobs = [TINY.model_copy(update={"dataset": str(tmp_path / name), **columns, **of_job[name]}) for name in of_job]
    for name, text in modules(jobs[0]).items():
        (chosen / name).write_text(text)
    shown = 'print("samples", json.dumps([train.to_dict(), evaluation.to_dict(), names]))\n'
    heads = [train_script(job, ANY, title="", expected={}).split("def compute_metrics")[0] + shown for job in jobs]
    # One process for all of them: importing the libraries takes most of the time.
    (chosen / "train.py").write_text(f"for head in {heads!r}:\n    exec(head, {{'__file__': __file__}})\n")
    found = [json.loads(line.removeprefix("samples ")) for line in run_script(chosen / "train.py").splitlines()]
    assert len(found) == len(jobs)
    for job, (*parts, names) in zip(jobs, found, strict=True):
        prepared = prepare(job, tmp_path / "cache")
        assert names == prepared.label_names == (list(words) if "words" in job.dataset else None)
        for part, expected in zip(parts, (prepared.train, prepared.eval), strict=True):
            assert part["labels"] == expected["labels"][:]
            assert part["input_ids"] == expected["input_ids"][:]


def test_the_embedded_model_stands_alone_and_its_script_imports_nothing_of_ours(tmp_path: Path) -> None:
    folder = exported(tmp_path, made_up(MIXED), 3)
    assert TINY.model == EMBEDDED
    for name in ("train.py", "embedded_model.py", "text_labels.py"):
        text = (folder / name).read_text()
        assert not re.search(r"^\s*(from|import) (tradeoff|objectives|studies|searchspace)\b", text, re.MULTILINE)


def test_the_script_does_what_training_arguments_have_no_place_for() -> None:
    eager = TrialParameters(per_device_train_batch_size=4, attn_implementation="eager", padding="longest")
    text = train_script(TINY, eager, title="", expected={})
    assert 'from_config(config, dtype=torch.float32, attn_implementation="eager")' in text
    assert "padding=False" in text
    assert "data_collator=DataCollatorWithPadding(tokenizer)," in text
    padded = TrialParameters(per_device_train_batch_size=4, padding="max_length")
    text = train_script(TINY, padded, title="", expected={})
    assert 'data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=32),' in text
    assert "attn_implementation" not in text


def test_no_text_of_a_study_becomes_markup_in_the_model_card(tmp_path: Path) -> None:
    text = "x\n# heading\n```\n<img src=x> **bold** | cell"
    job = TextClassificationJob(dataset=text, dataset_config=text, model=text, text_column=text)
    chosen = replace(MIXED, sources={"accuracy": text})
    results = replace(made_up(chosen, PLAIN, job=job), name=text, device={"kind": "cpu", "name": text})
    card = (exported(tmp_path, results, 3) / "README.md").read_text()
    front_matter, body = card.removeprefix("---\n").split("\n---\n", 1)
    # Neither is a name of the hub.
    assert yaml.safe_load(front_matter).keys() == {"library_name", "pipeline_tag", "metrics", "model-index"}
    assert "<" not in front_matter
    outside = "".join(re.split(r"^(````*).*?^\1$", body, flags=re.MULTILINE | re.DOTALL)[::2])
    assert "<img" not in outside
    assert "# heading\n" not in outside.replace("\\# heading", "")
    assert outside.count("\\*\\*bold") == outside.count("bold") > 0


def test_the_model_card_says_how_attention_and_padding_are_set(tmp_path: Path) -> None:
    knobs = {"optim": "adafactor", "attn_implementation": "eager", "padding": "longest"}
    chosen = record(4, (0.9, 10.0, 100.0), params(8) | knobs)
    card = (exported(tmp_path, made_up(chosen, PLAIN), 4) / "README.md").read_text()
    assert "8 x 1, fp32, adafactor, attention eager, padding longest" in card
    assert "| trial | batch | accumulation | checkpointing | precision | optimizer | padding | attention |" in card
    assert 'from_pretrained(..., attn_implementation="eager")' in card
    assert "data_collator = DataCollatorWithPadding(tokenizer)" in card
