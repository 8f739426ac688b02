"""The tutorial's study is a study, and its commands are commands."""

import re
from pathlib import Path

import yaml

from tradeoff.studies.cli.main import COMMANDS
from tradeoff.studies.config.study import StudyConfig

TUTORIAL = (Path(__file__).parents[3] / "docs" / "get-started" / "tutorial.md").read_text(encoding="utf-8")


def test_the_study_file_has_as_many_configurations_as_the_text_says() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    config = StudyConfig.model_validate(yaml.safe_load(example))
    (said,) = re.findall(r"These are (\d+) configurations", TUTORIAL)
    assert config.search_space().num_combinations() == int(said)


def test_every_command_of_the_text_exists() -> None:
    used = set(re.findall(r"^\$ tradeoff (\w+)|`tradeoff ([a-z]+)", TUTORIAL, flags=re.MULTILINE))
    assert {one or other for one, other in used} <= set(COMMANDS)
