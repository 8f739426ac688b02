"""The table "Where do I change ..." is true: its files exist, its counts are right, and its examples are where it says."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tradeoff.objectives.device.base import Device
from tradeoff.searchspace import KNOBS
from tradeoff.searchspace.knob import Learning
from tradeoff.studies.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "where-to-change.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| (an? .*?) \| (.*?) \| (\d+) \| (.*?) \|$", PAGE, flags=re.MULTILINE)}
# What exists today: the words by which source files know it.
EXAMPLES = {
    "a knob": "dataloader_pin_memory",
    "a plot": "hypervolume_figure",
    "a sampler": "nsga2",
    "a preset": "dummy-bert",
    "a published table": "lecture-checkpointing",
    "a GPU": "A100",
    "a device": "CudaDevice",
    "a cost with a measurement": "energy_j",
}


def paths(cell):
    return re.findall(r"`([\w/]+/[\w.]+)`", cell)


def files_with(word):
    found = [path for package in ("searchspace", "objectives", "studies") for path in (ROOT / package).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in found if path.suffix in (".py", ".jinja")}
    return {str(path.relative_to(ROOT)) for path, text in texts.items() if re.search(rf"\b{re.escape(word)}\b", text)}


def test_the_table_answers_the_questions_that_come_first():
    assert {"a knob", "a metric", "a device", "a command", "a sampler", "a plot"} <= {" ".join(row.split()[:2]) for row in ROWS}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_as_many_files_as_it_counts_and_all_of_them_exist(row):
    change, count, test = ROWS[row]
    assert len(paths(change)) == int(count)
    for path in paths(change) + paths(test):
        assert list(ROOT.glob(path.replace("NAME", "*"))), path


@pytest.mark.parametrize("row", EXAMPLES)
def test_an_example_is_in_the_files_of_its_row_alone(row):
    (change,) = [cells[0] for title, cells in ROWS.items() if title.startswith(row)]
    found = files_with(EXAMPLES[row])
    assert len(found) == len(paths(change))
    assert all(any(fnmatch(file, path.replace("NAME", "*")) for path in paths(change)) for file in found), found


def test_each_command_is_one_file_and_a_line_in_main():
    helpers = {"__init__", "main", "options", "plan_tables"}
    assert {path.stem for path in (ROOT / "studies" / "cli").glob("*.py")} - helpers == set(COMMANDS)


def test_the_page_on_the_search_says_of_each_knob_what_it_changes():
    page = (ROOT / "docs" / "how-it-works" / "search.md").read_text(encoding="utf-8")
    table = page.split("| parameter | memory | time | learning |")[1].split("\n\n")[0]
    rows = {name: row for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(rows) == set(KNOBS) - {"per_device_train_batch_size", "gradient_accumulation_steps"}
    for name, row in rows.items():
        memory, time, learning = (cell.strip().startswith("yes") for cell in row.split("|")[2:5])
        assert memory == (KNOBS[name].memory is not None), row
        assert time == KNOBS[name].changes_time, row
        assert learning == (KNOBS[name].learning >= Learning.PRECISION), row


def test_the_page_names_all_that_a_kind_of_device_must_provide():
    table = PAGE.split("| member | what for |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    attributes = {name for name in Device.__annotations__ if not hasattr(Device, name)}
    assert named == Device.__abstractmethods__ | attributes
