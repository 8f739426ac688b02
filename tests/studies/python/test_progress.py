"""The progress of a search in a notebook: one view that is updated, in a real kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SHOWN = """
from stored_studies import make_study
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.python.progress import NotebookDisplay, progress_display
from tradeoff.studies.results.results import read_results
from tradeoff.searchspace import TrialParameters

display = progress_display(True)
assert isinstance(display, NotebookDisplay)
display.message("starting <the> server of postgresql://ada:secret@db/a")
with display.running("stars", {"name": "Test CPU"}, StudyConfig()):
    display.trial_started(6, TrialParameters(per_device_train_batch_size=8))
    display.progress({"stage": "train", "step": 1, "total": 2})
    display.trials(read_results(make_study(None)).records)
"""


def test_one_output_shows_lines_trials_and_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "helpers"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOWN)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert len(shown) == 1
    text = shown[0].data["text/html"]
    assert text.startswith("<pre>starting &lt;the&gt; server of postgresql://ada:***@db/a\nstars on Test CPU\n")
    assert "trial 6  8 x 1" in text
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("trial  batch x accumulation"))
    assert lines[head].endswith("memory (MiB)")
    assert lines[head + 2].lstrip().startswith("0  8 x 1")
