"""Markdown of GitHub's kind from text that may hold anything: what a person wrote is shown, and never taken for markup."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """A table of GitHub's kind: the first `num_left` columns and the last one to the left, numbers to the right."""
    last = len(header) - 1
    aligned = [":---" if position < num_left or position == last else "---:" for position in range(len(header))]
    lines = [header, aligned, *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Text as code within a line, whatever backquotes it holds."""
    text = " ".join(text.split())
    fence = "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def code_block(text: str) -> str:
    """Text as a block of code, whatever fences it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.strip()}\n{fence}"
