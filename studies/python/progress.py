"""The progress of a search that a program or a notebook runs."""

import io
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import optuna
from rich.console import Console

from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import Display, LiveDisplay, standard_console, terminal_display
from tradeoff.studies.storage.urls import masked_words
from tradeoff.studies.visible import visible

_WIDTH = 110
_INTERVAL_S = 0.5


class NotebookDisplay(LiveDisplay):
    """One view in the cell's output, which is updated in place; lines that stay are above it."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), width=_WIDTH, force_jupyter=False, force_terminal=False))
        self._lines: list[str] = []
        self._drawn_at_s = 0.0
        self._handle: Any = None

    def message(self, line: str) -> None:
        """Add the line to those that stay."""
        self._lines.append(visible(masked_words(line)))
        self._update(at_once=True)

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: StudyConfig) -> Iterator[None]:
        """Update the view until the block ends."""
        self._begin(name, device, config)
        try:
            yield
        finally:
            self._update(at_once=True)

    def trial_started(self, number: int, parameters: Any, *, worker: int = 0) -> None:
        """Show the trial."""
        super().trial_started(number, parameters, worker=worker)
        self._update()

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Show the trial's stage and step."""
        super().progress(event, worker=worker)
        self._update()

    def trials(self, records: Any) -> None:
        """Show the counts and the front."""
        super().trials(records)
        self._update()

    def _update(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._drawn_at_s < _INTERVAL_S:
            return
        from IPython.display import HTML, display

        self._drawn_at_s = time.monotonic()
        view = self._console.render_lines(self._render(), pad=False) if self._config is not None else []
        text = "\n".join([*self._lines, *("".join(segment.text for segment in line) for line in view)])
        html = HTML(f"<pre>{escape(text)}</pre>")
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)


def progress_display(progress: bool) -> Display:
    """Return where a search is shown: nowhere, in the cell of a notebook, or on the error stream, live on a terminal."""
    if not progress:
        return Display()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # A kernel has a way to show more than text; IPython on a terminal has not.
    return NotebookDisplay() if hasattr(shell, "kernel") else terminal_display(standard_console(stderr=True))


_quiet = threading.Lock()
_num_quiet, _verbosity = 0, optuna.logging.WARNING


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging what the display shows, in whichever threads searches run; its level comes back after them."""
    global _num_quiet, _verbosity
    with _quiet:
        if _num_quiet == 0:
            _verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.ERROR)
        _num_quiet += 1
    try:
        yield
    finally:
        with _quiet:
            _num_quiet -= 1
            if _num_quiet == 0:
                optuna.logging.set_verbosity(_verbosity)
