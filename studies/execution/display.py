"""The display of a running study: a live view on a terminal, plain lines elsewhere. Nothing of a search depends on it."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.results.evidence import judged
from tradeoff.studies.results.fitted_table import flowed, wrapped
from tradeoff.studies.results.shared_machine import busy_lines
from tradeoff.studies.results.tables import front_table, short_configuration
from tradeoff.studies.storage.urls import masked_words
from tradeoff.studies.visible import visible

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

    def baselines(self, values: Mapping[str, float]) -> None:
        """Take the values of a constant answer, by objective, once they are known."""

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Take all trials of the study, whenever they change."""


class PlainDisplay(Display):
    """Prints lines of text: one for a message, one for the end of a trial."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or standard_console()
        self._config: StudyConfig | None = None
        self._counted = 0
        self._said_busy = False

    def message(self, line: str) -> None:
        """Print the line."""
        self._console.print(Text(visible(masked_words(line))), soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """Print the table."""
        _print_whole(self._console, what)

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
            f"{short_configuration(record.told_params)}  {describe_outcome(record)}"
        )

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Count the trials that were run before, and say once that the machine is busy with something else."""
        self._counted = sum(record.counts for record in records)
        self._say_busy(records)

    def _say_busy(self, records: Sequence[TrialRecord]) -> None:
        if not self._said_busy and (lines := busy_lines(records)):
            self._said_busy = True
            for line in lines:
                self.message(line)


class LiveDisplay(PlainDisplay):
    """Redraws a view in place: the running trials, time left, counts by outcome, and the front so far."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._title = ""
        self._begin_s = 0.0
        self._counted_before = 0
        self._records: Sequence[TrialRecord] = ()
        self._baselines: Mapping[str, float] = {}
        # By worker: its trial, and the last that it reported.
        self._running: dict[int, tuple[str, ...]] = {}
        self._events: dict[int, Mapping[str, Any]] = {}

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> Iterator[None]:
        """Show the view until the block ends."""
        self._begin(name, device, config)
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def _begin(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> None:
        self._config, self._begin_s = config, time.monotonic()
        self._title = visible(f"{name} on {device['name']}")

    def trial_started(self, number: int, parameters: TrialParameters, *, worker: int = 0) -> None:
        """Show the trial's configuration."""
        # Another thread draws: what it looks up for a running trial is there before the trial is.
        self._events[worker] = {}
        self._running[worker] = (f"trial {number}", short_configuration(parameters.as_dict()))

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Show the trial's stage and step."""
        self._events[worker] = event

    def trial_ended(self, record: TrialRecord, *, worker: int = 0) -> None:
        """Show no trial of this worker until the next one begins."""
        self._running.pop(worker, None)

    def worker_ended(self, worker: int) -> None:
        """Stop showing its trial."""
        self._running.pop(worker, None)

    def baselines(self, values: Mapping[str, float]) -> None:
        """Show which rows of the front are no better."""
        self._baselines = values

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show the counts and the front."""
        if not self._records:
            self._counted_before = sum(record.counts for record in records)
        self._records = records
        self._say_busy(records)

    def _render(self) -> RenderableType:
        assert self._config is not None
        width, height = self._console.size
        counted = sum(record.counts for record in self._records)
        counts = [f"{counted} of {self._config.trials} trials", counts_line(self._records), self._time_left(counted)]
        above = [*wrapped(self._title, width), *_in_lines(counts, width, separator="   ")]
        # The view's own thread draws while trials begin and end.
        running = sorted(self._running.items())
        trials: list[str] = []
        num_shown = 0
        for worker, trial in running[:MAX_LIVE_ROWS]:
            lines = _in_lines([*trial, *_step(self._events[worker])], width, separator="  ")
            # Half of the terminal is for the front.
            if trials and len(trials) + len(lines) > height // 2:
                break
            trials += lines
            num_shown += 1
        more = [f"and {len(running) - num_shown} more trials"] if len(running) > num_shown else []
        parts: list[RenderableType] = [Text(above[0], style="bold"), *map(Text, above[1:])]
        parts.append(ProgressBar(total=self._config.trials, completed=counted, width=60))
        parts += [*(Text(line, style="cyan") for line in trials), *(Text(line, style="dim") for line in more)]
        return Group(*parts, *self._front_lines(width, height - len(parts)))

    def _front_lines(self, width: int, height: int) -> list[Text]:
        """Return as much of the front as fits, and how much of it is left out."""
        assert self._config is not None
        front = judged(self._records, self._config.objectives, self._baselines, self._config.job.BASELINE)
        for num_shown in range(min(len(front.records), MAX_LIVE_ROWS), 0, -1):
            lines = front_table(front, most=num_shown).showable(self._console.encoding).lines(width)
            if num_shown < len(front.records):
                lines.append(Text(f"and {len(front.records) - num_shown} more", style="dim"))
            if len(lines) <= height:
                return lines
        return []

    def _time_left(self, counted: int) -> str:
        done = counted - self._counted_before
        if not done or self._config is None:
            return ""
        left_s = (time.monotonic() - self._begin_s) / done * max(0, self._config.trials - counted)
        minutes, seconds = divmod(round(left_s), 60)
        return f"about {minutes}:{seconds:02} left"


def _step(event: Mapping[str, Any]) -> list[str]:
    """Describe where a trial is: its stage, and the step if the stage counts them."""
    steps = [f"step {event['step']} of {event['total']}"] if event.get("total") else []
    return [str(event.get("stage", "start")), *steps]


def _in_lines(pieces: Iterable[str], width: int, *, separator: str) -> list[str]:
    """Return lines of the pieces that are not empty; one that is longer than a line is broken between words."""
    lines = flowed([visible(piece) for piece in pieces if piece], width, separator=separator)
    return [part for line in lines for part in wrapped(line, width)]


def standard_console(*, stderr: bool = False) -> Console:
    """Return rich's console on the output stream, or on the error stream; text must be `visible` before it draws it."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=getattr(stream, "drawing", stream))


def terminal_display(console: Console | None = None) -> Display:
    """Return a live view for a terminal, and plain lines elsewhere."""
    console = console or standard_console()
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(console)


def print_result(what: RenderableType) -> None:
    """Print a command's result on the output stream."""
    _print_whole(standard_console(), what)


def _print_whole(console: Console, what: RenderableType) -> None:
    # Without it rich would cut what is wider than the console.
    console.print(what, soft_wrap=True)


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
