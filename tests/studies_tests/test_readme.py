"""What the README shows is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from studies.config import StudyConfig

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_prints_a_front(tmp_path):
    (example,) = blocks("python")
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    environment = os.environ | {"TRADEOFF_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines
    assert all("per_device_train_batch_size" in line and "peak_memory_mib" in line for line in lines)


def test_the_study_file_is_a_study():
    (example,) = blocks("yaml")
    config = StudyConfig.model_validate(yaml.safe_load(example))
    assert config.search_space().domains["per_device_train_batch_size"].values() == (1, 2, 4, 8, 16, 32, 64)
    assert config.search_space().domains["learning_rate"].low == 1e-5


def test_no_place_is_left_to_fill_in():
    assert "@@" not in README
