"""`tradeoff fit`: the largest batches as a table for a person or as JSON, and the command that finds them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.measurements.outcome import Completed, Measurements, OutOfMemory, ProbeResult
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.execution.fit import Fit, fit_study
from tradeoff.studies.execution.interrupts import EXIT_STATUS, Interrupts
from tradeoff.studies.execution.preparation import prepare
from tradeoff.studies.results.tables import SHORT_NAMES, short_configuration, show_parameter

if TYPE_CHECKING:
    from rich.table import Table


def fit_command(
    *, study_file: Path | None, preset: str | None, overrides: Sequence[str], limit_mib: float | None, as_json: bool
) -> int:
    """What `tradeoff fit` does: progress goes to the error stream, the result to the output.

    Args:
        study_file: A study file, or None.
        preset: Else the name of a preset.
        overrides: As `--set` gives them.
        limit_mib: The memory budget, instead of the study's or the device's.
        as_json: Print JSON instead of a table.

    Returns:
        The exit status: 0, 1 if a probe failed with a real error, 130 if the user ended it.

    Raises:
        TradeoffError: The study can't run as it is written.
    """
    config = load_config(study_file, preset=preset, overrides=overrides)
    # The study's own batches don't count, so none of them can be too large for the data.
    config = config.model_copy(update={"space": config.space.model_copy(update={"per_device_train_batch_size": 1})})
    display, interrupts = PlainDisplay(Console(stderr=True)), Interrupts()
    fits: list[Fit] = []
    status, budget_mib = 0, limit_mib or 0.0
    try:
        with interrupts.handled(), TrialServer() as server:
            ready = prepare(config, server, interrupts, display=display)
            budget_mib = limit_mib or ready.setup.memory_limit_mib
            for fit in fit_study(
                ready, limit_mib=limit_mib, on_probe=lambda parameters, outcome: display.message(_line(parameters, outcome))
            ):
                fits.append(fit)
    except KeyboardInterrupt:
        display.message("ended")
        status = EXIT_STATUS
    if as_json:
        print(json.dumps({"budget_mib": budget_mib, "rows": [fit.as_dict() for fit in fits]}, indent=2))
    elif fits:
        console = Console()
        (console if console.is_terminal else Console(width=200)).print(fit_table(fits, budget_mib))
    return status or int(any(fit.failure is not None for fit in fits))


def fit_table(fits: Sequence[Fit], budget_mib: float) -> "Table":
    """A row for each way to compute: its largest batch, what that and the next one need, and what finding it took."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"The largest batch that fits in {budget_mib:,.0f} MiB",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    further = [name for name in TrialParameters.names() if any(name in fit.further for fit in fits)]
    for name in ("checkpointing", "precision", "accumulates", *(SHORT_NAMES.get(name, name) for name in further)):
        table.add_column(name)
    for name in ("batch", "memory (MiB)", "next needs (MiB)", "samples/s", "probes", "time (s)"):
        table.add_column(name, justify="right")
    table.add_column("")
    for fit in fits:
        parameters = fit.parameters
        cells = [
            "yes" if parameters.gradient_checkpointing else "no",
            parameters.precision.value,
            "yes" if parameters.gradient_accumulation_steps > 1 else "no",
            *(show_parameter(fit.further.get(name)) for name in further),
            "none" if fit.batch is None else f"{fit.batch:,}",
            "" if fit.peak_memory_mib is None else f"{fit.peak_memory_mib:,.1f}",
            "" if fit.next_needs_mib is None else f">= {fit.next_needs_mib:,.1f}",
            "" if fit.samples_per_s is None else f"{fit.samples_per_s:,.0f}",
            str(fit.num_probes),
            f"{fit.elapsed_s:,.1f}",
            fit.failure or ("all training samples" if fit.is_all else ""),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _line(parameters: TrialParameters, outcome: Any) -> str:
    """What a probe found: `96 x 1, bf16  fits: 61.2 MiB`."""
    shown = short_configuration(parameters.as_dict())
    match outcome:
        case Completed(measurements=Measurements(probe=ProbeResult(memory=memory))):
            return f"{shown}  fits: {memory.peak_memory_mib:,.1f} MiB"
        case OutOfMemory():
            return f"{shown}  out of memory"
    return f"{shown}  {outcome.kind.replace('_', ' ')}: {outcome.reason}"
