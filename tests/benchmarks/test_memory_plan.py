"""How published rows are matched and counted, without any trace."""

import json
from pathlib import Path

import pytest
from memory_plan import Result, summary
from published_rows import Published, Runs, lecture, matched

ROWS = Path(__file__).parents[3] / "shared/data/memory_rows.json"


def result(measured_mib, estimated_mib, *, fits=None, fitted=None, is_told=True):
    published = Published(source="here", case="a run", measured_mib=measured_mib, fits=fitted)
    return Result(published=published, estimated_mib=estimated_mib, low_mib=95.0, high_mib=105.0, fits=fits, is_told=is_told)


def test_errors_bounds_and_verdicts_are_counted_where_a_row_tells_them():
    results = [
        result(100.0, 101.0, fits=True, fitted=True),
        result(100.0, 97.0, fits=False, fitted=True),
        result(110.0, 100.0, is_told=False),
        result(None, 90.0, fits=True, fitted=False),
    ]
    assert summary(results) == {
        "rows": "4",
        "median": "2.00%",
        "95th percentile": "3.00%",
        "largest": "3.00%",
        "inside the bounds": "2 of 3",
        "wrong fits": "1",
        "wrong does not fit": "1",
    }


def row(source, **values):
    usual = {
        "model": "facebook/opt-350m", "task": "causal-lm", "seq_length": 128, "batch": 4, "accumulation": 1,
        "precision": "weights",
        "checkpointing": False, "optimizer": "none", "attention": "eager", "value": 104.8576, "unit": "MB (10^6 bytes)",
    }  # fmt: skip
    return usual | {"source": source} | values


def test_a_row_is_matched_by_its_source_or_has_a_reason():
    opt = "https://github.com/huggingface/transformers docs/source/en/model_doc/opt.md"
    rows = [
        row(opt),
        row(opt, batch=8, seq_length=2048, value="OOM"),
        row(opt, batch=8, seq_length=2048, attention="sdpa"),
        row("https://github.com/google-research/bert/blob/master/README.md"),
    ]
    groups, reasons = matched(rows)
    [loops] = [group for group in groups if not isinstance(group, Runs)]
    assert [(shape, published.measured_mib, published.fits) for shape, published in loops.runs] == [
        ((4, 128), pytest.approx(100.0), None),
        ((8, 2048), None, False),
    ]
    assert reasons == {"the page repeats another row's value": 1, "TensorFlow": 1}


def test_every_published_row_is_matched_or_has_a_reason():
    if not ROWS.is_file():
        pytest.skip("the published rows are not here")
    rows = json.loads(ROWS.read_text())
    groups, reasons = matched(rows)
    num_own = sum(len(runs.runs) for runs in lecture())
    num_matched = sum(len(group.runs) for group in groups) - num_own
    # DeepSpeed's rows are two verdicts each, that at 0 samples one.
    num_verdicts = sum("DeepSpeedExamples" in each["source"] for each in rows) - 1
    assert num_matched - num_verdicts + sum(reasons.values()) == len(rows)
