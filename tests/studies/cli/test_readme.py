"""What the README shows is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from tradeoff.studies.config.study import StudyConfig

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_prints_a_front(tmp_path):
    (example,) = blocks("python")
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    environment = os.environ | {"TRADEOFF_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT / "examples")}
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "evaluation loss" in result.stdout or "eval loss" in result.stdout
    assert "the knee of the front" in result.stdout.splitlines()[-1]


def test_the_study_files_are_studies():
    config, language = (StudyConfig.model_validate(yaml.safe_load(example)) for example in blocks("yaml"))
    assert config.search_space().domains["per_device_train_batch_size"].values() == (1, 2, 4, 8, 16, 32, 64)
    assert config.search_space().domains["learning_rate"].low == 1e-5
    assert language.job.task == "causal_lm"
    assert language.objectives == ("eval_loss", "train_time_s", "peak_memory_mib")


def test_no_place_is_left_to_fill_in():
    assert "@@" not in README


def fault_tables():
    """The lines of the tables of faults, in the README and in the page that has all of them."""
    for text in (README, (ROOT / "docs" / "how-it-works" / "faults.md").read_text(encoding="utf-8")):
        table = text.split("| when | then | test |\n")[1].split("\n\n")[0]
        yield table.splitlines()[1:]


def test_every_line_of_the_tables_of_faults_names_a_test_that_there_is():
    texts: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        texts[path.name] = texts.get(path.name, "") + path.read_text(encoding="utf-8")
    for lines in fault_tables():
        assert len(lines) > 10
        for line in lines:
            named = re.findall(r"`(?:(test_\w+\.py))?(?:::(test_\w+))?`", line.rsplit("|", 2)[1])
            assert named, line
            file = ""
            for of_file, test in named:
                file = of_file or file
                assert file in texts, line
                assert not test or f"def {test}(" in texts[file], line
