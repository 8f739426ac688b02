"""`tradeoff fit`: finds the largest batch that fits by probing it."""

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.measurements.outcome import Completed, Measurements, Outcome, OutOfMemory, ProbeResult
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.studies.cli.options import Overrides, Preset, StudyFile, TableOrJson
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.execution.display import PlainDisplay, print_result, standard_console
from tradeoff.studies.execution.fit import Fit, fit_study
from tradeoff.studies.execution.interrupts import Interrupts, run_to_end
from tradeoff.studies.execution.preparation import prepare
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.tables import SHORT_NAMES, parameter_cell, short_configuration


def fit(
    study_file: StudyFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    limit_mib: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e12, metavar="MIB", help="The memory limit; default: the study's, or the device's.", show_default=False
        ),
    ] = None,
    output_format: TableOrJson = "table",
) -> None:
    """Find the largest batch that fits, exactly, for each checkpointing and precision, with and without accumulation.

    Every batch is tried with the real Trainer on the longest sequences, in a process of its own. A few probes find the largest
    one that fits, and show that the next one does not. The batch sizes in the study's space are ignored.

    \b
    Example:
      tradeoff fit
      tradeoff fit study.yaml --limit-mib 8192
      tradeoff fit --preset yelp-bert --set space.precision=bf16 --format json
    """
    limit = [] if limit_mib is None else [f"limits.peak_memory_mib={limit_mib}"]
    config = load_config(study_file, preset=preset, overrides=[*(overrides or ()), *limit])
    # The study's own batches don't count, so none of them can be too large for the data.
    config = config.model_copy(update={"space": config.space.model_copy(update={"per_device_train_batch_size": 1})})
    display, interrupts = PlainDisplay(standard_console(stderr=True)), Interrupts()
    fits: list[Fit] = []
    memory_limit_mib = config.limits.peak_memory_mib or 0.0

    def search() -> None:
        nonlocal memory_limit_mib
        with interrupts.handled(), TrialServer() as server:
            ready = prepare(config, server, interrupts, display=display)
            memory_limit_mib = ready.setup.memory_limit_mib
            for fit in fit_study(ready, on_probe=lambda *probed: display.message(_line(*probed))):
                fits.append(fit)

    status = run_to_end(search, display.message, interrupted="stopped")
    if output_format == "json":
        print(json.dumps({"memory_limit_mib": memory_limit_mib, "rows": [fit.as_dict() for fit in fits]}, indent=2))
    elif fits:
        print_result(fit_table(fits, memory_limit_mib))
    if fits and all(fit.batch is None and fit.failure is None for fit in fits):
        display.message(
            f"tradeoff: no batch fits in {memory_limit_mib:,.0f} MiB; raise the limit, add gradient checkpointing, or shorten"
            " the texts (job.max_length)"
        )
        status = status or 1
    raise typer.Exit(status or int(any(fit.failure is not None for fit in fits)))


def fit_table(fits: Sequence[Fit], memory_limit_mib: float) -> FittedTable:
    """Return a row for each compute configuration: its largest batch, the memory of that and the next one, and the cost."""
    further = KNOBS.in_order({name: None for fit in fits for name in fit.further})
    left = ["checkpointing", "precision", "accumulates", *(SHORT_NAMES.get(name, name) for name in further)]
    head = [*left, "batch", "memory (MiB)", "next needs (MiB)", "samples/s", "probes", "time (s)", ""]
    rows = []
    for fit in fits:
        parameters = fit.parameters
        cells = [
            "yes" if parameters.gradient_checkpointing else "no",
            parameters.precision.value,
            "yes" if parameters.gradient_accumulation_steps > 1 else "no",
            *(parameter_cell(fit.further, name) for name in further),
            "none" if fit.batch is None else f"{fit.batch:,}",
            "" if fit.peak_memory_mib is None else f"{fit.peak_memory_mib:,.1f}",
            "" if fit.next_needs_mib is None else f">= {fit.next_needs_mib:,.1f}",
            "" if fit.samples_per_s is None else f"{fit.samples_per_s:,.0f}",
            str(fit.num_probes),
            f"{fit.elapsed_s:,.1f}",
            fit.failure or ("all training samples" if fit.is_all else ""),
        ]
        rows.append(cells)
    return FittedTable(head=head, rows=rows, left=left, title=f"The largest batch that fits in {memory_limit_mib:,.0f} MiB")


def _line(parameters: TrialParameters, outcome: Outcome) -> str:
    """Describe a probe: `96 x 1, bf16  fits: 61.2 MiB`."""
    shown = short_configuration(parameters.as_dict())
    match outcome:
        case Completed(measurements=Measurements(probe=ProbeResult(memory=memory))):
            return f"{shown}  fits: {memory.peak_memory_mib:,.1f} MiB"
        case OutOfMemory():
            return f"{shown}  out of memory"
        case Completed():
            raise AssertionError("a probe that completed has measured its memory")
    return f"{shown}  {outcome.kind.replace('_', ' ')}: {outcome.reason}"
