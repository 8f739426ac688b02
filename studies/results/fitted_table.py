"""A table of text that fits a terminal of any width without losing a character.

Where the table is wider than the terminal, remarks move to lines of their own, then words and headings wrap, and at last each
row becomes a block with a line for each value. A pipe or a file has no width: there every row is one line.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tradeoff.studies.visible import visible

_GAP = "  "
# A block's values stand this far in from its first line.
_INDENT = "    "


@dataclass(frozen=True, kw_only=True)
class FittedTable:
    """A table whose cells are text; it can be printed by rich.

    Attributes:
        head: The columns' names. A last column without one holds remarks.
        rows: The cells of each row.
        left: The names of the columns that hold words: aligned left, and wrapped where room is scarce. Remarks always are.
        title: What stands above; empty for nothing.
        alert: A sentence below the title, in bold; empty for nothing.
        notes: Lines below.
        bold: The places of cells in bold, as (row, column).
        rule: The letter of the line below the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = ()
    title: str = ""
    alert: str = ""
    notes: Sequence[str] = ()
    bold: frozenset[tuple[int, int]] = frozenset()
    rule: str = "─"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table's lines for a terminal's width, or at full width where there is no terminal."""
        yield from self.showable(options.encoding).lines(options.max_width if console.is_terminal else None)

    def showable(self, encoding: str) -> "FittedTable":
        """Return the table with letters that can be seen and that an encoding has: an escape for any other, +- for ±."""
        has_all = encoding.lower().startswith("utf")

        def plain(text: str) -> str:
            text = visible(text)
            return text if has_all else text.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)

        return replace(
            self,
            head=[plain(name) for name in self.head],
            rows=[[plain(cell) for cell in row] for row in self.rows],
            left=[plain(name) for name in self.left],
            title=plain(self.title),
            alert=plain(self.alert),
            notes=[plain(note) for note in self.notes],
            rule=self.rule if has_all else "-",
        )

    def lines(self, width: int | None) -> list[Text]:
        """Return the table's lines, none longer than `width` unless a single word is; at full width if it is None."""
        above = [Text(line) for line in wrapped(self.title, width) if line]
        above += [Text(line, style="bold") for line in wrapped(self.alert, width) if line]
        above += [Text()] if above else []
        below = [line for note in self.notes for line in wrapped(note, width)]
        return [*above, *self._body(width), *map(Text, ["", *below] if below else [])]

    def _body(self, width: int | None) -> list[Text]:
        natural, least = self._widths(range(len(self.head)))
        if width is None or _total(natural) <= width:
            return self._grid(natural)
        remarks = self._remarks()
        columns = range(len(self.head) - remarks)
        natural, least = self._widths(columns)
        if _total(least) > width:
            return self._blocks(width)
        while _total(natural) > width:
            # The column with most room to spare gives it.
            widest = max(columns, key=lambda column: natural[column] - least[column])
            natural[widest] -= 1
        return self._grid(natural, remark_width=width if remarks else None)

    def _remarks(self) -> int:
        return int(bool(self.head) and not self.head[-1])

    def _is_left(self, column: int) -> bool:
        return self.head[column] in self.left or (not self.head[column] and column == len(self.head) - 1)

    def _widths(self, columns: range) -> tuple[list[int], list[int]]:
        """Return the width of each column in which nothing wraps, and the least in which no phrase and no number is broken."""
        natural, least = [], []
        for column in columns:
            cells = [row[column] for row in self.rows]
            natural.append(max(map(cell_len, [self.head[column], *cells])))
            whole = [phrase for cell in cells for phrase in _phrases(cell)] if self._is_left(column) else cells
            least.append(max(map(cell_len, [*self.head[column].split(), *whole]), default=0))
        return natural, least

    def _grid(self, widths: Sequence[int], *, remark_width: int | None = None) -> list[Text]:
        """Return the head, a rule and the rows; with `remark_width`, each remark below its row."""
        columns = range(len(widths))
        lines = list(self._line([wrapped(self.head[column], widths[column]) for column in columns], widths, at_end=True))
        lines.append(Text(self.rule * _total(widths)))
        for position, row in enumerate(self.rows):
            cells = [wrapped(row[column], widths[column]) for column in columns]
            lines += self._line(cells, widths, bold={column for column in columns if (position, column) in self.bold})
            if remark_width is not None and row[-1]:
                indent = " " * (widths[0] + len(_GAP))
                lines += [Text(indent + part) for part in wrapped(row[-1], remark_width - len(indent))]
        return lines

    def _line(
        self, cells: Sequence[Sequence[str]], widths: Sequence[int], *, bold: Collection[int] = (), at_end: bool = False
    ) -> Iterator[Text]:
        """Yield the lines of a row whose cells have several; a head's stand `at_end`, next to the values."""
        height = max(map(len, cells))
        for place in range(height):
            line = Text()
            for column, parts in enumerate(cells):
                index = place - (height - len(parts)) if at_end else place
                part = parts[index] if 0 <= index < len(parts) else ""
                room = " " * (widths[column] - cell_len(part))
                line.append(_GAP if column else "")
                line.append(part + room if self._is_left(column) else room + part, style="bold" if column in bold else "")
            line.rstrip()
            yield line

    def _blocks(self, width: int) -> list[Text]:
        """Return each row as a block: its first column's name and value, and below a line for each other value."""
        lines: list[Text] = []
        for position, row in enumerate(self.rows):
            lines += [Text("")] if position else []
            for column, (name, cell) in enumerate(zip(self.head, row, strict=True)):
                if not cell:
                    continue
                indent = _INDENT if column else ""
                style = "bold" if (position, column) in self.bold else ""
                if name and cell_len(f"{indent}{name} {cell}") <= width:
                    lines.append(Text.assemble(indent, name, " ", (cell, style)))
                    continue
                if name:
                    lines += [Text(indent + part) for part in wrapped(name, width - len(indent))]
                    indent += "  "
                lines += [Text.assemble(indent, (part, style)) for part in wrapped(cell, width - len(indent))]
        return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """Return the lines of a text, broken after commas, else between words; a word longer than the width stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        for line in flowed(_phrases(paragraph), width, separator=" "):
            is_long = width is not None and cell_len(line) > width
            lines += flowed(line.split(" "), width, separator=" ") if is_long else [line]
    return lines


def _phrases(text: str) -> list[str]:
    *first, last = text.split(", ")
    return [*(f"{phrase}," for phrase in first), last]


def flowed(pieces: Sequence[str], width: int | None, *, separator: str) -> list[str]:
    """Return lines of pieces, as many in each as fit; a piece is never broken. There is at least one line."""
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]}{separator}{piece}" if lines else piece
        if lines and (width is None or cell_len(longer) <= width):
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines or [""]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * max(0, len(widths) - 1)
