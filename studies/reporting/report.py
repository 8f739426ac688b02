"""The report of a study: one HTML file to send to someone, or Markdown for a pull request.

The HTML file holds its data and the scripts that draw it, asks no server for anything, and works where there is no network.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.notes import PACKAGE, study_values
from tradeoff.studies.reporting.plot_style import FONT
from tradeoff.studies.reporting.report_data import counted_out, error_of, page_data
from tradeoff.studies.reporting.report_tables import STATUSES, maps, steps, trust
from tradeoff.studies.reporting.templating import render, render_html
from tradeoff.studies.results.compare import compare_studies
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import is_elsewhere, short_configuration, with_spread

# How a job's own names read in a sentence.
_OUR_MODELS = {EMBEDDED: "The embedded model"}
_OUR_DATA = {EMBEDDED: "generated reviews", RANDOM_TOKENS: "random tokens"}
_SCRIPTS = tuple(f"report_{part}.js" for part in ("state", "pen", "pictures", "answer", "page"))

# Text has a contrast of 4.5 or more with its ground, marks and rims of 3; the steps are one hue, so that gold stands out.
_COLORS = ("ground", "wash", "ink", "soft", "line", "grid", "grey", "blue", "gold", "red")
_LIGHT = ["#ffffff", "#f5f7f9", "#1f2933", "#52606d", "#d8dee4", "#e9edf1", "#8a94a0", "#0072b2", "#b87400", "#b34700"]
_DARK = ["#12171d", "#1a2129", "#e6ebf0", "#a9b5c0", "#303b46", "#232c35", "#71808e", "#6cc0f0", "#f0b429", "#ff9a66"]
PALETTES: dict[str, dict[str, Any]] = {
    "light": dict(zip(_COLORS, _LIGHT, strict=True))
    | {"steps": ["#9fb3c8", "#7f9cb8", "#5f84a6", "#426b91", "#275179", "#0b3358"]},
    "dark": dict(zip(_COLORS, _DARK, strict=True))
    | {"steps": ["#45566b", "#4f6f8e", "#5b8bb0", "#6ba8d0", "#95c9ea", "#dcf2ff"]},
}
_SIGNS = {"trained": "", "derived": "", "probed": "", "oom": "OOM", "ruled-out": "✕", "untried": "·"}
_LEGEND = (
    ('<circle cx="8" cy="8" r="5" fill="var(--blue)"/>', "measured"),
    (
        '<circle cx="8" cy="8" r="4.5" fill="none" stroke="var(--blue)" stroke-width="2.4"/>',
        "derived from another trial or a probe",
    ),
    ('<path d="M8 2l6 6-6 6-6-6z" fill="none" stroke="var(--blue)" stroke-width="2"/>', "predicted by a model"),
    ('<circle cx="8" cy="8" r="6" fill="none" stroke="var(--ink)" stroke-width="1.8"/>', "on the front"),
    ('<circle cx="8" cy="8" r="6" fill="none" stroke="var(--gold)" stroke-width="3"/>', "recommended or chosen"),
)
_OVER = ('<path d="M4 4l8 8M12 4l-8 8" stroke="var(--red)" stroke-width="2"/>', "out of memory")
_EXPECTED = (
    '<path d="M3 3h10v10H3z" fill="none" stroke="var(--soft)" stroke-width="1.4" stroke-dasharray="2 2"/>',
    "expected on the front, not trained",
)
_OTHER = '<path d="M3.5 3.5h9v9h-9z" fill="var(--soft)" stroke="var(--ink)" stroke-width="1.2"/>'
_ERRORS = ('<path d="M8 1v14" stroke="var(--ink)" stroke-width="1.6" stroke-dasharray="2 2"/>', "its error")


def html_report(results: StudyResults, other: StudyResults | None = None) -> str:
    """Return the report as one HTML page that needs no network.

    Args:
        results: The study.
        other: Another one, whose front is shown beside the study's; None for no other.

    Raises:
        TradeoffError: The two have different objectives or devices.
    """
    if other is not None:
        _check_comparable(results, other)
    front = judged_front(results)
    data = page_data(results, front, None if other is None else (other, judged_front(other)))
    trust_lines, trust_rows = trust(results)
    over = any(record.outcome == "out_of_memory" for record in results.records)
    direction = {"maximize": ("up", "right"), "minimize": ("down", "left")}
    first, *others = (direction[GOALS[name].direction] for name in front.objectives)
    return render_html(
        PACKAGE,
        "report.html.jinja",
        **study_values(results, front),
        **{name: Markup(_variables(palette)) for name, palette in PALETTES.items()},
        font=FONT,
        subject=_subject(results.config.get("job", {})),
        take=_take(front),
        better=f"{first[0]} and {others[0][1]}" if len({each[1] for each in others}) == 1 else f"{first[0]}",
        num_objectives=len(front.objectives),
        headings=[GOALS[name].short for name in front.objectives],
        other=None if other is None else other.name,
        comparison=None if other is None else compare_studies(results, other),
        legend=[
            *_LEGEND,
            *([(_OTHER, f"on the front of {other.name}")] if other else []),
            _ERRORS,
            *([_OVER] if over else []),
            *([_EXPECTED] if results.predicted else []),
        ],
        has_axes=len(front.candidates) > 1,
        has_elsewhere=any(is_elsewhere(record, name) for record in front.candidates for name in front.objectives),
        has_hypervolume=bool(data["hypervolume"]),
        has_curves=bool(data["curves"]),
        left_out=", ".join(f"{count} {words}" for words, count in counted_out(results).items()),
        num_rows=len(data["trials"]["n"]),
        steps=steps(front.candidates, front.objectives, lambda record, name: error_of(results, front, record, name)[0]),
        maps=maps(results),
        statuses=STATUSES,
        signs=_SIGNS,
        trust_lines=trust_lines,
        trust_rows=trust_rows,
        version=results.tradeoff_version,
        scripts=_SCRIPTS,
        # Closing the script early is the one thing that JSON in a page can do wrong.
        data=Markup(
            json.dumps(data | {"palettes": PALETTES}, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        ),
    )


def tables_page(title: str, tables: Sequence[FittedTable], notes: Sequence[str] = ()) -> str:
    """Return tables, with sentences above them, as one HTML page that needs no network."""
    palettes = {name: Markup(_variables(palette)) for name, palette in PALETTES.items()}
    return render_html(PACKAGE, "tables.html.jinja", **palettes, font=FONT, title=title, tables=tables, notes=notes)


def _check_comparable(a: StudyResults, b: StudyResults) -> None:
    beside = f"{a.name} and {b.name} can't be shown in one report"
    if set(a.objectives) != set(b.objectives):
        raise TradeoffError(
            f"{beside}: the objectives are {', '.join(a.objectives)}, and {', '.join(b.objectives)};"
            f" `tradeoff compare {a.name} {b.name}` shows what they share"
        )
    if (ours := a.device.get("name")) != (theirs := b.device.get("name")):
        raise TradeoffError(
            f"{beside}: times and memory of different devices can't be compared, and theirs are {ours} and {theirs};"
            f" `tradeoff compare {a.name} {b.name}` shows both in a table"
        )


def markdown_report(results: StudyResults) -> str:
    """Return the report's tables as Markdown of GitHub's kind; what is long is folded away."""
    return render(PACKAGE, "report.md.jinja", **study_values(results))


def check_report(output: Path) -> None:
    """Check that a report can go to this file, before any work is done.

    Raises:
        TradeoffError: It is a directory, or is in a directory that does not exist.
    """
    if output.is_dir():
        raise TradeoffError(f"--output must be a file, and {output} is a directory; name a file in it")
    if not output.absolute().parent.is_dir():
        raise TradeoffError(f"--output must be in a directory that exists, and {output.parent} does not; make it first")


def write_report(text: str, output: Path) -> None:
    """Write a report; a file that is there is replaced once the new one is complete.

    Raises:
        TradeoffError: It can't be written.
    """
    check_report(output)
    try:
        with temporary_folder(f".{output.name}-", output.absolute().parent) as temporary:
            complete = temporary / "report"
            complete.write_text(text, encoding="utf-8")
            os.replace(complete, output)
    except OSError as error:
        raise TradeoffError(f"the report can't be written to {output}: {error.strerror}; name another file") from error


def _subject(job: dict[str, Any]) -> str:
    model, data = job.get("model"), job.get("dataset")
    return f"{_OUR_MODELS.get(model, model)} on {_OUR_DATA.get(data, data)}. " if model and data else ""


def _variables(palette: dict[str, Any]) -> str:
    return " ".join(f"--{name}: {palette[name]};" for name in _COLORS)


def _take(front: JudgedFront) -> dict[str, Any] | None:
    """Return what to take without limits, for a reader without JavaScript; None where nothing is worth it."""
    if (knee := front.knee) is None:
        return None
    about = {name: "about " * is_elsewhere(knee, name) for name in front.objectives}
    return {
        "configuration": short_configuration(knee.params),
        "title": knee.title,
        "measured": [(GOALS[name].label, about[name] + with_spread(knee, name, unit=True)) for name in front.objectives],
    }
