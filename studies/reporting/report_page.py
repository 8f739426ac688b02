"""The look of the report: one HTML page that needs nothing but itself.

It is laid out for a phone first and widens from there; in print each figure keeps to its page, and what only a pointer can use
is left out.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

from tradeoff.studies.reporting.plot_style import BLUE, FONT, GREY, GRID, INK, ORANGE, VERMILLION

_STYLE = f"""
:root {{
  --ink: {INK}; --soft: #52606d; --line: {GRID}; --wash: #f6f8fa;
  --blue: {BLUE}; --red: {VERMILLION}; --gold: {ORANGE};
}}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0 auto; padding: 20px 16px 48px; max-width: 1120px; color: var(--ink); background: #fff; }}
body {{ font: 16px/1.5 {FONT}; }}
h1 {{ margin: 0 0 4px; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }}
h2 {{ margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid var(--line); font-size: 1.3rem; }}
h3 {{ margin: 0; font-size: 1rem; }}
p {{ margin: 0 0 12px; max-width: 46rem; }}
.wide-text {{ max-width: none; }}
.soft, figcaption p {{ color: var(--soft); }}
figcaption p {{ margin: 2px 0 0; font-size: .875rem; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px; margin: 20px 0 8px; }}
.card {{ padding: 14px 16px; border: 1px solid var(--line); border-top: 3px solid var(--blue); border-radius: 4px; }}
.card.knee {{ border-top-color: var(--gold); background: #fffbf2; }}
.card h3 {{ font-size: .875rem; font-weight: 600; color: var(--soft); }}
.card strong {{ display: block; margin: 2px 0 8px; font-size: 1.125rem; line-height: 1.3; }}
.card dl, .facts {{ display: grid; grid-template-columns: auto 1fr; gap: 2px 16px; margin: 0; }}
.card dl, table {{ font-variant-numeric: tabular-nums; }}
.card dt {{ color: var(--soft); }}
.card dd {{ margin: 0; text-align: right; }}
.card dd.best {{ font-weight: 700; }}
.card .trial {{ margin: 8px 0 0; font-size: .8125rem; color: var(--soft); }}
.facts dt {{ color: var(--soft); }}
.facts dd {{ margin: 0; overflow-wrap: anywhere; }}
.plots {{ display: grid; grid-template-columns: minmax(0, 1fr); gap: 32px 24px; margin-top: 20px; }}
.maps {{ gap: 16px 24px; margin-top: 12px; }}
.maps h3 {{ font-size: .875rem; color: var(--soft); }}
.group {{ margin-top: 28px; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 12px 0 0; list-style: none; font-size: .875rem; }}
.legend svg {{ width: 16px; height: 16px; margin-right: 6px; vertical-align: -3px; }}
figure {{ margin: 0; min-width: 0; }}
.plot {{ width: 100%; height: 400px; margin-top: 6px; }}
.plot.tall {{ height: min(540px, 100vw); }}
.scale {{ display: flex; align-items: center; gap: 8px; margin: 4px 0 0; font-size: .8125rem; color: var(--soft); }}
.scale i {{ width: 120px; height: 10px; border-radius: 2px; }}
.scroll {{ overflow-x: auto; margin: 12px 0; border: 1px solid var(--line); border-radius: 4px; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
th, td {{ padding: 6px 12px; text-align: right; white-space: nowrap; }}
th {{ vertical-align: bottom; color: var(--soft); background: var(--wash); font-weight: 600; }}
th.wraps {{ white-space: normal; }}
td {{ border-top: 1px solid var(--line); }}
th:last-child, td:last-child, .named th:nth-child(2), .named td:nth-child(2) {{ text-align: left; }}
tr.marked td {{ background: #fffbf2; }}
tr.over td:last-child {{ color: var(--red); font-weight: 600; }}
pre {{ overflow-x: auto; padding: 12px 16px; margin: 12px 0; background: var(--wash); border-radius: 4px; font-size: .875rem; }}
summary {{ cursor: pointer; color: var(--blue); }}
footer {{ margin-top: 48px; font-size: .8125rem; color: var(--soft); }}
@media (min-width: 860px) {{
  body {{ padding: 40px 32px 64px; }}
  .pairs {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  .pairs .wide {{ grid-column: 1 / -1; }}
}}
@media (min-width: 620px) {{ .by-two, .by-three {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }} }}
@media (min-width: 860px) {{ .by-three {{ grid-template-columns: repeat(3, minmax(0, 1fr)); }} }}
@media print {{
  @page {{ margin: 14mm; }}
  body {{ max-width: none; padding: 0; font-size: 11pt; }}
  .screen {{ display: none; }}
  figure, .card, tr {{ break-inside: avoid; }}
  h2, h3, figcaption, .scale {{ break-after: avoid; }}
  .cards {{ grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }}
  h2 {{ margin-top: 28px; }}
  thead {{ display: table-header-group; }}
  .scroll {{ overflow: visible; }}
  th, td {{ padding: 3px 7px; }}
  table {{ font-size: 8.5pt; }}
  .pairs {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  .plot {{ height: 290px; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  .by-two, .by-three {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
}}
"""

# A figure is drawn when it comes near the screen: a phone needs seconds for a dozen. On paper each gets half the width, set in
# numbers, since a browser tells the page of printing before it has laid it out for paper.
_PRINT_WIDTH_PX = 330
_PRINT_HEIGHT_PX = 290
_SCRIPT = f"""
const figures = JSON.parse(document.getElementById("figures").textContent);
const settings = {{responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false}};
function draw(element) {{
  if (element.dataset.drawn) return;
  element.dataset.drawn = "1";
  const figure = figures[element.id];
  Plotly.newPlot(element, figure.data, figure.layout, settings);
}}
const plots = document.querySelectorAll(".plot");
const watcher = new IntersectionObserver((seen) => {{
  for (const entry of seen) if (entry.isIntersecting) {{ watcher.unobserve(entry.target); draw(entry.target); }}
}}, {{rootMargin: "600px"}});
plots.forEach((element) => watcher.observe(element));
const printed = Array.from(plots).filter((element) => !element.closest(".screen"));
window.addEventListener("beforeprint", () => {{
  document.querySelectorAll("details").forEach((element) => {{ element.open = true; }});
  printed.forEach((element) => {{
    draw(element);
    const height = Math.min({_PRINT_HEIGHT_PX}, element.clientHeight);
    Plotly.relayout(element, {{autosize: false, width: {_PRINT_WIDTH_PX}, height: height}});
  }});
}});
window.addEventListener("afterprint", () => {{
  printed.forEach((element) => {{
    const height = figures[element.id].layout.height || null;
    Plotly.relayout(element, {{autosize: true, width: null, height: height}});
  }});
}});
"""


def page(*, title: str, body: str, figures: dict[str, Any]) -> str:
    """The whole page.

    Args:
        title: The text of the browser's tab.
        body: The page's content, as HTML.
        figures: Plotly figures by the id of the element that `plot` made for each.
    """
    from plotly.offline import get_plotlyjs

    # Closing a script early is the one thing that JSON in a page can do wrong.
    data = json.dumps({name: json.loads(figure.to_json()) for name, figure in figures.items()}).replace("<", "\\u003c")
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            # No icon, so that no browser asks a server for one.
            '<link rel="icon" href="data:,">',
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            body,
            "<noscript><p>The plots need JavaScript; the tables hold the same figures.</p></noscript>",
            f'<script type="application/json" id="figures">{data}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{_SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def plot_html(
    identifier: str, *, title: str, caption: str = "", height_px: int | None = None, classes: str = "", tall: bool = False
) -> str:
    """A figure's place in the page, with what it says; `page` fills it."""
    note = f"<p>{html.escape(caption)}</p>" if caption else ""
    style = f' style="height: {height_px}px"' if height_px else ""
    return (
        f'<figure class="{classes}"><figcaption><h3>{html.escape(title)}</h3>{note}</figcaption>'
        f'<div class="plot{" tall" if tall else ""}" id="{html.escape(identifier)}"{style} role="img"'
        f' aria-label="{html.escape(title)}"></div></figure>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, has_names: bool = False, classes: Sequence[str] = ()) -> str:
    """A table that scrolls by itself where it is wider than the screen.

    Args:
        header: Its columns' names.
        rows: Its cells.
        has_names: Whether the second column holds words, which are set to the left as those of the last one are.
        classes: The class of each row, where it has one.
    """
    head = "".join(f'<th scope="col"{_wraps(cell)}>{html.escape(cell)}</th>' for cell in header)
    lines = []
    for position, row in enumerate(rows):
        name = classes[position] if position < len(classes) else ""
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{name}">{cells}</tr>' if name else f"<tr>{cells}</tr>")
    kind = ' class="named"' if has_names else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table{kind}>{body}</table></div>'


def legend(*, has_out_of_memory: bool) -> str:
    """What the marks of the trade-off's plots mean: once for all of them, since a phone has no room for it in each."""
    marks = [
        (f'<circle cx="8" cy="8" r="5.5" fill="{BLUE}"/>', "Pareto front"),
        (
            f'<path d="M8 1l2 4.6 5 .4-3.8 3.3 1.2 4.9L8 11.5l-4.4 2.7 1.2-4.9L1 6l5-.4z" fill="{ORANGE}" stroke="{INK}"/>',
            "knee",
        ),
        (f'<circle cx="8" cy="8" r="4" fill="none" stroke="{GREY}"/>', "dominated"),
    ]
    if has_out_of_memory:
        marks.append((f'<path d="M4 4l8 8M12 4l-8 8" stroke="{VERMILLION}" stroke-width="2"/>', "out of memory"))
    items = "".join(f'<li><svg viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>{words}</li>' for mark, words in marks)
    return f'<ul class="legend">{items}</ul>'


def _wraps(cell: str) -> str:
    return ' class="wraps"' if " " in cell else ""
