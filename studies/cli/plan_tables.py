"""Memory estimates as tables: every configuration, the largest batch that fits, and the GPUs that are large enough."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tradeoff.objectives.memory_estimator.gpus import GPUS
from tradeoff.objectives.memory_estimator.run_estimate import RunEstimate
from tradeoff.searchspace import KNOBS, Precision, TrialParameters
from tradeoff.searchspace.job_knobs import JOB_KNOBS
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.tables import parameter_cell

_PARTS = ("context", "weights", "gradients", "optimizer", "activations", "workspace", "retained")
_VERDICTS = {True: "yes", False: "no"}


def fits_by_gpu(estimates: Sequence[RunEstimate]) -> list[dict[str, Any]]:
    """Count for each known GPU, smallest first, the configurations of a precision it has, and those certain to fit on it."""
    rows = []
    for gpu in sorted(GPUS, key=lambda gpu: gpu.memory_mib):
        able = [each for each in estimates if gpu.has_bf16 or each.parameters.precision is not Precision.BF16]
        # An estimate's upper bound decides.
        batches = [each.parameters.per_device_train_batch_size for each in able if each.upper_bound_mib <= gpu.memory_mib]
        rows.append(
            {
                "device": gpu.name,
                "memory_mib": gpu.memory_mib,
                "configurations": len(able),
                "fitting": len(batches),
                "largest_batch": max(batches, default=None),
            }
        )
    return rows


def gpus_table(rows: Sequence[Mapping[str, Any]]) -> FittedTable:
    """Return the rows of `fits_by_gpu` as a table."""
    cells = [
        [
            row["device"],
            f"{row['memory_mib']:,}",
            f"{row['fitting']} of {row['configurations']}",
            str(row["largest_batch"] or "none"),
        ]
        for row in rows
    ]
    head = ["GPU", "memory (MiB)", "configurations that fit", "largest batch"]
    return FittedTable(head=head, rows=cells, left=["GPU"], title="What is certain to fit on a GPU")


def estimates_table(estimates: Sequence[RunEstimate], device_memory_mib: float | None = None) -> FittedTable:
    """Return a row for each configuration: the estimate, its bounds, the verdict, and the parts of the peak."""
    unknown = "" if device_memory_mib is None else "maybe"
    further = _further([each.parameters for each in estimates])
    rows = [
        [
            *(parameter_cell(each.parameters, name) for name in further),
            str(each.parameters.per_device_train_batch_size),
            str(each.parameters.gradient_accumulation_steps),
            "yes" if each.parameters.gradient_checkpointing else "no",
            each.parameters.precision.value,
            *_bounds(each),
            unknown if each.fits is None else _VERDICTS[each.fits],
            *(_mib(each.parts[name]) for name in _PARTS),
        ]
        for each in estimates
    ]
    named = [KNOBS[name].label for name in further]
    head = [*named, "batch", "accumulation", "checkpointing", "precision", "peak", "low", "high", "fits", *_PARTS]
    left = [*named, "checkpointing", "precision", "fits"]
    return FittedTable(head=head, rows=rows, left=left, title="Estimated peak memory, MiB")


def frontier_table(largest: Mapping[TrialParameters, RunEstimate | None], device_memory_mib: float) -> FittedTable:
    """Return a row for each combination of the other parameters with the largest batch that fits."""
    further = _further(largest)
    rows = []
    for one, best in largest.items():
        cells = ["none", "", "", ""] if best is None else [str(best.parameters.per_device_train_batch_size), *_bounds(best)]
        checkpointing = "yes" if one.gradient_checkpointing else "no"
        steps = str(one.gradient_accumulation_steps)
        rows.append([*(parameter_cell(one, name) for name in further), checkpointing, one.precision.value, steps, *cells])
    named = [KNOBS[name].label for name in further]
    head = [*named, "checkpointing", "precision", "accumulation", "largest batch", "peak", "low", "high"]
    title = f"The largest batch that fits in {device_memory_mib:,.0f} MiB"
    return FittedTable(head=head, rows=rows, left=[*named, "checkpointing", "precision"], title=title)


def _further(configurations: Collection[TrialParameters]) -> list[str]:
    """Return the other settings that differ: the model, the length, the adapters, the optimizer."""
    names = [*(knob.name for knob in JOB_KNOBS), "optim", "attn_implementation"]
    return [name for name in names if len({each.get(name) for each in configurations}) > 1]


def _bounds(estimate: RunEstimate) -> list[str]:
    return [
        _mib(estimate.peak_memory_mib),
        _mib(estimate.lower_bound_mib),
        _mib(estimate.upper_bound_mib),
    ]


def _mib(value: float) -> str:
    return f"{value:,.0f}"
