"""The display of a running study: a live view on a terminal, plain lines elsewhere. Nothing of a search depends on it."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.tables import front_table, short_configuration

# Rows of the front, and of running trials, that a live view shows: more would scroll off a small terminal.
MAX_LIVE_ROWS = 10


class Display:
    """Shows a running study; this one shows nothing, for studies that are run from Python."""

    def message(self, line: str) -> None:
        """Show a line that stays, such as what the device lacks."""

    def show(self, what: RenderableType) -> None:
        """Show a table that stays."""

    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> AbstractContextManager[None]:
        """Show the study while the block runs its trials."""
        return nullcontext()

    def trial_started(self, number: int, parameters: TrialParameters, *, worker: int = 0) -> None:
        """Note that a worker begins a trial."""

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Note that a worker's trial reports `stage`, and within a stage `step` of `total`."""

    def trial_ended(self, record: TrialRecord, *, worker: int = 0) -> None:
        """Note that a worker's trial has ended."""

    def worker_ended(self, worker: int) -> None:
        """Note that a worker is gone, and its trial with it."""

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Take all trials of the study, whenever they change."""


class PlainDisplay(Display):
    """Prints lines of text: one for a message, one for the end of a trial."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._config: StudyConfig | None = None
        self._counted = 0

    def message(self, line: str) -> None:
        """Print the line."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """Print the table."""
        self._console.print(what)

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> Iterator[None]:
        """Print how many trials there will be."""
        self._config = config
        self.message(f"study {name!r}: {config.trials} trials, sampler {config.sampler}")
        yield

    def trial_ended(self, record: TrialRecord, *, worker: int = 0) -> None:
        """Print the configuration and the outcome."""
        assert self._config is not None
        if record.outcome == "skipped":
            return
        self._counted += record.counts
        self.message(
            f"[{self._counted}/{self._config.trials}] trial {record.number}  "
            f"{short_configuration(record.params)}  {describe_outcome(record)}"
        )

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Count the trials that were run before."""
        self._counted = sum(record.counts for record in records)


class LiveDisplay(PlainDisplay):
    """Redraws a view in place: the running trials, time left, counts by outcome, and the front so far."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._title = ""
        self._begin_s = 0.0
        self._counted_before = 0
        self._records: Sequence[TrialRecord] = ()
        # By worker: its trial, and the last that it reported.
        self._running: dict[int, str] = {}
        self._events: dict[int, Mapping[str, Any]] = {}

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> Iterator[None]:
        """Show the view until the block ends."""
        self._config, self._begin_s = config, time.monotonic()
        self._title = f"{name} on {device['name']}"
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def trial_started(self, number: int, parameters: TrialParameters, *, worker: int = 0) -> None:
        """Show the trial's configuration."""
        # Another thread draws: what it looks up for a running trial is there before the trial is.
        self._events[worker] = {}
        self._running[worker] = f"trial {number}  {short_configuration(parameters.as_dict())}"

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Show the trial's stage and step."""
        self._events[worker] = event

    def trial_ended(self, record: TrialRecord, *, worker: int = 0) -> None:
        """Show no trial of this worker until the next one begins."""
        self._running.pop(worker, None)

    def worker_ended(self, worker: int) -> None:
        """Stop showing its trial."""
        self._running.pop(worker, None)

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show the counts and the front."""
        if not self._records:
            self._counted_before = sum(record.counts for record in records)
        self._records = records

    def _render(self) -> RenderableType:
        assert self._config is not None
        counted = sum(record.counts for record in self._records)
        parts: list[RenderableType] = [
            Text(self._title, style="bold"),
            Text(f"{counted} of {self._config.trials} trials   {counts_line(self._records)}   {self._time_left(counted)}"),
            ProgressBar(total=self._config.trials, completed=counted, width=60),
        ]
        # The view's own thread draws while trials begin and end.
        running = sorted(self._running.items())
        parts += [Text(f"{trial}  {_step(self._events[worker])}", style="cyan") for worker, trial in running[:MAX_LIVE_ROWS]]
        if len(running) > MAX_LIVE_ROWS:
            parts.append(Text(f"and {len(running) - MAX_LIVE_ROWS} more trials", style="dim"))
        front = pareto_front(self._records, self._config.objectives)
        if front:
            parts.append(front_table(front[:MAX_LIVE_ROWS], self._config.objectives))
            if len(front) > MAX_LIVE_ROWS:
                parts.append(Text(f"and {len(front) - MAX_LIVE_ROWS} more", style="dim"))
        return Group(*parts)

    def _time_left(self, counted: int) -> str:
        done = counted - self._counted_before
        if not done or self._config is None:
            return ""
        left_s = (time.monotonic() - self._begin_s) / done * max(0, self._config.trials - counted)
        minutes, seconds = divmod(round(left_s), 60)
        return f"about {minutes}:{seconds:02} left"


def _step(event: Mapping[str, Any]) -> str:
    """Describe where a trial is: its stage, and the step if the stage counts them."""
    step = f"  step {event['step']} of {event['total']}" if event.get("total") else ""
    return f"{event.get('stage', 'start')}{step}"


def terminal_display(console: Console | None = None) -> Display:
    """Return a live view for a terminal, and plain lines elsewhere."""
    console = console or Console()
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(console)


def output_console() -> Console:
    """Return a console for a command's result; a pipe or a file has no width to fit, so there it is wide."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def plain_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[str] = ()) -> Table:
    """Return a table with no frame, whose columns are aligned right, except for those that `left` names."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, justify="left" if name in left else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def describe_outcome(record: TrialRecord) -> str:
    """Describe how a trial ended: its values, or why it has none."""
    if record.outcome == "probed":
        probe = record.attributes["probe"]
        return (
            f"probed: {probe['micro_step_time_s'] * 1000:,.1f} ms a micro-step, {probe['memory']['peak_memory_mib']:,.0f} MiB"
        )
    if record.outcome == "completed":
        return "  ".join(f"{name} {GOALS[name].show(value)}" for name, value in record.values.items())
    return f"{(record.outcome or 'running').replace('_', ' ')}: {record.reason}"


def counts_line(records: Sequence[TrialRecord]) -> str:
    """Count trials by outcome: `12 completed, 3 out of memory`."""
    counts = Counter(record.outcome.replace("_", " ") for record in records if record.outcome is not None)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
