"""What a search has found, for a program or a notebook."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from tradeoff.studies.config.stored import NO_CODE, AllowedCode
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.python.chosen import Configuration
from tradeoff.studies.python.configuration import storage_text
from tradeoff.studies.python.errors import speaking_python
from tradeoff.studies.python.functions import job_of as job_of_function
from tradeoff.studies.reporting.plots import trade_off_plots
from tradeoff.studies.reporting.report import check_report, html_report, markdown_report, write_report
from tradeoff.studies.results.criteria import Limit, Within
from tradeoff.studies.results.ending import nothing_completed
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.expectation import MEASURED, source_of
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.results.tables import front_as_json, front_table, measured_names, parameter_names
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE

if TYPE_CHECKING:
    import pandas as pd

_MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A study as of one read: its front, the choice from it, and what can be made of it.

    In a notebook it is shown as its front, and printed as the table of `tradeoff front`.

    Example:
        >>> result = tradeoff.load("reviews")
        >>> set(result.front["precision"]) <= {"fp32", "bf16"}
        True
        >>> fastest = result.within(accuracy=0.005)
        >>> path = result.report("report.html")

    Attributes:
        study: The study, an ordinary `optuna.Study`: `study.best_trials` is the front, and `optuna.visualization` draws it.
    """

    study: optuna.Study
    _results: StudyResults
    _allowed: AllowedCode = NO_CODE

    def __repr__(self) -> str:
        return f"<study {self._results.name!r}: {self._results.summary()}; {len(self._judged.records)} on the front>"

    def __str__(self) -> str:
        if not self._judged.records:
            return repr(self)
        table = front_table(self._judged, title=f"Pareto front of {self._results.name}", caption=self._results.summary())
        return "\n".join(line.plain for line in table.lines(shutil.get_terminal_size().columns))

    def _repr_html_(self) -> str:
        return str(self.front.to_html())

    @cached_property
    def _judged(self) -> JudgedFront:
        return judged_front(self._results)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives, in the study's order."""
        return self._results.objectives

    @cached_property
    def front(self) -> "pd.DataFrame":
        """The Pareto front, a row for each configuration by the number of its trial, best in the first objective first.

        Columns are the parameters, the objectives, their known standard deviations as `<objective>_std`, where each value
        comes from as `<objective>_source`, what a trial's own training has reached as `measured_<objective>` where the value
        is what all trainings lead to expect, and `marks`: knee, lowest peak memory, no better than a constant answer, ...
        """
        import pandas as pd

        rows = json.loads(front_as_json(self._judged))
        spreads = [f"{name}_std" for name in self.objectives]
        records = [
            row["params"]
            | {name: row[name] for name in (*self.objectives, *spreads) if name in row}
            | {f"{name}_source": row["sources"].get(name) for name in self.objectives}
            | {f"{MEASURED}_{name}": value for name, value in row[MEASURED].items()}
            | {"marks": ", ".join(row["marks"])}
            for row in rows
        ]
        names = [*parameter_names(self._judged.records), *self.objectives]
        known = [name for name in spreads if any(name in row for row in rows)]
        own = [f"{MEASURED}_{name}" for name in measured_names(self._judged.records)]
        columns = [*names, *known, *(f"{name}_source" for name in self.objectives), *own, "marks"]
        index = pd.Index([row["trial"] for row in rows], name="trial", dtype="Int64")
        return pd.DataFrame(records, columns=columns, index=index)

    @property
    def knee(self) -> Configuration:
        """The knee of the front: what is closest to the best of every objective.

        Raises:
            TradeoffError: Nothing has completed, or nothing is better than a constant answer.
        """
        return self.choose()

    def within(self, **distances: float | str) -> Configuration:
        """Choose the best in the first of the other objectives that is this close to the best.

        Example:
            >>> result.within(accuracy=0.005).why
            'the best training time with accuracy within 0.005 of the best'

        Args:
            distances: The distance from the best that an objective may have: a number, or a share such as "10%".

        Raises:
            TradeoffError: An objective has another name, or nothing is this close in all of them.
        """
        return self.choose(within=distances)

    @speaking_python
    def choose(
        self,
        *,
        limits: Sequence[str] | Mapping[str, float] = (),
        within: Mapping[str, float | str] | None = None,
        trial: int | None = None,
        maximize: str | None = None,
        minimize: str | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Configuration:
        """Choose one configuration, as `tradeoff export` does; the knee of what satisfies the limits by default.

        Example:
            >>> result.choose(limits=["peak_memory_mib<=7000"], maximize="accuracy").why
            'the largest accuracy on the front'

        Args:
            limits: Limits that it must satisfy, such as "peak_memory_mib<=7000", or the most of each, by name.
            within: As for `within`.
            trial: Take this trial.
            maximize: Take the largest value of this measurement.
            minimize: Take the smallest value of this measurement.
            weights: Take the knee with these weights of the objectives; 1 where one is not named.

        Raises:
            TradeoffError: A name is unknown, nothing qualifies, or several ways to choose are given.
        """
        if (why := nothing_completed(self._results)) is not None:
            raise TradeoffError(why)
        if isinstance(limits, Mapping):
            limits = [f"{name}<={bound}" for name, bound in limits.items()]
        selection = Selection(
            limits=tuple(Limit.parse(text) for text in ([limits] if isinstance(limits, str) else limits)),
            within=tuple(Within.parse(f"{name}:{distance}") for name, distance in (within or {}).items()),
            trial=trial,
            maximize=maximize,
            minimize=minimize,
            weights=weights or {},
        )
        choice = choose(self._results, selection.of(self.objectives))
        record = choice.record
        return Configuration(
            trial=record.number if record.number >= 0 else None,
            params=dict(record.params),
            values=dict(record.values),
            sources={name: source_of(record, name) for name in record.sources},
            why=choice.why,
            _results=self._results,
            _choice=choice,
            _allowed=self._allowed,
        )

    def export(self, output: str | Path, *, to: str | Sequence[str] = ()) -> list[Path]:
        """Write the knee as files to train with; see `Configuration.export`."""
        return self.knee.export(output, to=to)

    @speaking_python
    def report(self, output: str | Path = "report.html") -> Path:
        """Write the study's plots and tables as one HTML file that needs no network, or its tables as Markdown (`.md`).

        Raises:
            TradeoffError: The file can't be written.
        """
        path = Path(output)
        check_report(path)
        write = markdown_report if path.suffix.lower() in _MARKDOWN else html_report
        write_report(write(self._results), path)
        return path

    def plot(self, x: str | None = None, y: str | None = None) -> Any:
        """Return a `plotly` figure of two objectives, with the front and its knee.

        Args:
            x: An objective; by default the second one.
            y: Another one; by default the first one.

        Raises:
            TradeoffError: One is not an objective of the study, or nothing has completed.
        """
        names = self.objectives
        x, y = (f"eval_{name}" if f"eval_{name}" in names else name for name in (x, y))
        y = y or next(name for name in names if name != x)
        x = x or next(name for name in names if name != y)
        if x == y or not {x, y} <= set(names):
            raise TradeoffError(f"x and y must be two of {', '.join(names)}, got {x} and {y}")
        if (why := nothing_completed(self._results)) is not None:
            raise TradeoffError(why)
        first, second = sorted((x, y), key=names.index)
        plots = {plot.name: plot.figure for plot in trade_off_plots(self._results, self._judged)}
        return plots[f"{first}-over-{second}".replace("_", "-")]


@speaking_python
def load(
    name: str | None = None,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    build: str | Callable[..., Any] | None = None,
    trust_remote_code: bool = False,
) -> Result:
    """Return what a stored study has found, while it still runs too.

    Example:
        >>> result = tradeoff.load("reviews", storage="sqlite:///tradeoff.db")
        >>> len(result.study.best_trials) >= 1
        True

    Args:
        name: The study's name; None for the one created last.
        storage: A database URL, or the path of a SQLite file.
        build: The function of the study, or `[DIRECTORY/]MODULE:FUNCTION`: an export calls it only if you name it too, since
            whoever can write to the storage could name any.
        trust_remote_code: Let an export run code that comes with its model or data set from the Hub.

    Raises:
        TradeoffError: There is no such study or storage.
    """
    named = None if build is None else job_of_function(build)[0] if callable(build) else build
    if isinstance(named, dict):
        named = f"{named['python_path']}/{named['build']}"
    return read(name, storage, AllowedCode(build=named, trust_remote_code=trust_remote_code))


def read(name: str | None, storage: str | Path, allowed: AllowedCode) -> Result:
    """Return what a stored study has found, with the code that its exports may name."""
    study = load_study(name, open_storage(storage_text(storage), create=False))
    return Result(study=study, _results=read_results(study), _allowed=allowed)
