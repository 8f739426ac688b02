import io

import pytest
from rich.console import Console

from tradeoff.studies.results.fitted_table import FittedTable

HEAD = ["trial", "batch x accumulation", "accuracy", ""]
ROWS = [["3", "16 x 2, checkpointing, bf16", "0.812 ± 0.012", "knee, highest accuracy"], ["12", "8 x 1", "0.7", ""]]
TABLE = FittedTable(head=HEAD, rows=ROWS, left=["batch x accumulation"], title="Pareto front of [mine]", notes=["12 trials"])


def lines(width: int | None) -> list[str]:
    return [line.plain for line in TABLE.lines(width)]


def printed(width: int, *, terminal: bool = True) -> str:
    to = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    to.print(TABLE, soft_wrap=True)
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_where_there_is_room_a_row_is_a_line_with_its_remark() -> None:
    assert lines(None) == lines(120) == [
        "Pareto front of [mine]",
        "",
        "trial  batch x accumulation              accuracy",
        "─────────────────────────────────────────────────────────────────────────",
        "    3  16 x 2, checkpointing, bf16  0.812 ± 0.012  knee, highest accuracy",
        "   12  8 x 1                                  0.7",
        "",
        "12 trials",
    ]  # fmt: skip


def test_a_remark_without_room_stands_below_its_row() -> None:
    assert lines(60)[2:6] == [
        "trial  batch x accumulation              accuracy",
        "─────────────────────────────────────────────────",
        "    3  16 x 2, checkpointing, bf16  0.812 ± 0.012",
        "       knee, highest accuracy",
    ]


def test_words_wrap_after_a_comma_before_a_number_is_broken() -> None:
    assert lines(40)[2:6] == [
        "       batch x",
        "trial  accumulation             accuracy",
        "────────────────────────────────────────",
        "    3  16 x 2,             0.812 ± 0.012",
    ]


def test_on_the_narrowest_terminal_a_row_is_a_block() -> None:
    assert lines(30)[2:] == [
        "trial 3",
        "    batch x accumulation",
        "      16 x 2, checkpointing,",
        "      bf16",
        "    accuracy 0.812 ± 0.012",
        "    knee, highest accuracy",
        "",
        "trial 12",
        "    batch x accumulation 8 x 1",
        "    accuracy 0.7",
        "",
        "12 trials",
    ]


@pytest.mark.parametrize("width", range(1, 90))
def test_no_width_loses_a_word_and_no_line_of_several_words_is_too_long(width: int) -> None:
    words = printed(width).split()
    for row in ROWS:
        assert [word for cell in row for word in cell.split() if word not in words] == []
    for line in lines(width):
        assert len(line) <= width or len(line.split()) <= 1


def test_a_pipe_has_no_width() -> None:
    assert printed(20, terminal=False) == "".join(f"{line}\n" for line in lines(None))


def test_a_cell_in_bold_has_every_character_at_any_width() -> None:
    table = FittedTable(head=["", "a", "b"], rows=[["speed", "1.25", "12.5"]], left=[""], bold=frozenset({(0, 2)}))
    for width in (None, 12, 3):
        bold = [line.plain[span.start : span.end] for line in table.lines(width) for span in line.spans if span.style == "bold"]
        assert bold == ["12.5"]


def test_wide_letters_count_as_two() -> None:
    table = FittedTable(head=["name", "value"], rows=[["批量大小", "1"]], left=["name"])
    assert [line.plain for line in table.lines(80)][2] == "批量大小      1"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_lacks_a_letter_gets_what_it_can_write(terminal: bool) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    table = FittedTable(head=["accuracy"], rows=[["0.812 ± 0.012"]], title="Pareto front of 批", notes=["± of seeds"])
    Console(file=stream, width=60, force_terminal=terminal, color_system=None).print(table, soft_wrap=True)
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "Pareto front of \\u6279" in text
    assert "-" * 14 in text
    assert "0.812 +- 0.012" in text
    assert "+- of seeds" in text
