"""GitHub-flavoured Markdown from text that may hold anything: a person's words are shown, and never taken for markup."""

import re
from collections.abc import Sequence

from tradeoff.studies.visible import visible

# An underscore within a word marks nothing, nor does our mark behind a number.
_MARKS = re.compile(r"[\\`*\[\]|#]|(?<!\d)~|(?<![^\W_])_|_(?![^\W_])")
# What GitHub makes a link of by itself.
_LINKS = re.compile(r"(?<=[a-z])(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)


def markdown_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    num_left: int = 1,
    is_last_left: bool = True,
    bold: int | None = None,
) -> str:
    """Return a table whose cells show their text as it is.

    Args:
        header: The columns' names.
        rows: The cells of each row.
        num_left: The number of first columns that hold words, which are aligned left; numbers are aligned right.
        is_last_left: True if the last column holds words too.
        bold: The position of a row to set in bold.
    """
    num_columns = len(header)
    is_left = [column < num_left or (is_last_left and column == num_columns - 1) for column in range(num_columns)]
    lines = [[plain(cell) for cell in header], [":---" if left else "---:" for left in is_left]]
    for position, row in enumerate(rows):
        cells = [plain(cell) for cell in row]
        lines.append([f"**{cell}**" if cell and position == bold else cell for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    escaped = _MARKS.sub(r"\\\g<0>", visible(" ".join(text.split())))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", escaped)


def code(text: str) -> str:
    """Return text as code within a line, whatever backquotes it holds."""
    text = visible(" ".join(text.split()))
    fence = _fence(text, "`")
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def code_block(text: str, *, language: str = "") -> str:
    """Return text as a block of code, whatever fences it holds."""
    text = visible(text, keep="\n\t")
    fence = _fence(text, "```")
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _fence(text: str, fence: str) -> str:
    while fence in text:
        fence += "`"
    return fence
