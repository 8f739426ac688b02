"""The columns of a language model's data, as TRL names them: `messages`, `prompt` and `completion`, or `text`.

An export copies this file beside its `train.py`, so it imports nothing of ours: both train on the same answers. Of a message
its role and its content are read; tool calls are refused, since a conversation without them would teach another answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

Kind = Literal["messages", "prompt_completion", "text"]
ROLES = ("system", "user", "assistant", "tool")

_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
LABELS = {"label", "labels", "stars", "rating", "class", "category", "sentiment"}
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])


def language_columns(names: Sequence[str], where: object) -> dict[str, str]:
    """Return the columns that a language model reads, of those that there are; `text_files.read_table` asks for them.

    Raises:
        ValueError: There are none.
    """
    found = next((columns for columns in _COLUMNS.values() if set(columns) <= set(names)), None)
    if found is not None:
        return {name: name for name in found}
    remedy = "rename those that you mean"
    if alone := {"prompt", "completion"} & set(names):
        remedy = f"{alone.pop()} alone is not enough"
    elif "conversations" in names:
        remedy = "rename conversations to messages, and the keys of each message to role and content"
    elif LABELS & {name.lower() for name in names}:
        remedy = "rename the column with the text to text, or set job.task to text_classification to learn the labels"
    there = ", ".join(repr(name[:40])[1:-1] for name in sorted(names)[:20])
    raise ValueError(
        f"a language model learns from a column messages, from prompt and completion, or from text, and {where} has {there};"
        f" {remedy}"
    )


def kind_of(names: Sequence[str]) -> Kind:
    """Return the kind of a table of columns that `language_columns` chose."""
    return next(kind for kind, columns in _COLUMNS.items() if set(columns) <= set(names))


def _messages(values: list[Any], where: str) -> list[dict[str, Any]]:
    """Return the messages of a conversation as a JSON file holds them, each with role and content alone.

    Raises:
        ValueError: They are no messages.
    """
    for number, value in enumerate(values, 1):
        of = f"message {number} of {where}"
        if not isinstance(value, Mapping):
            raise ValueError(f"a message must be an object with role and content, got {value!r:.40} as {of}; correct it")
        if "from" in value and "role" not in value:
            raise ValueError(f"a message must have a role and a content, and {of} has {', '.join(value)}; {_OTHER_KEYS}")
        for key in ("role", "content"):
            if not isinstance(value.get(key), str | None):
                raise ValueError(f"the {key} of a message must be text, got {value[key]!r:.40} in {of}; write it as text")
        if value.get("tool_calls"):
            raise ValueError(f"messages must have no tool_calls, which are not learned, and {of} has; remove the row")
    return [{"role": value.get("role"), "content": value.get("content")} for value in values]


_OTHER_KEYS = "rename from to role and value to content, and as roles human to user and gpt to assistant"

# What a list in these columns of a JSON file is, for `text_files.read_table`.
LISTS = dict.fromkeys(("messages", "prompt", "completion"), (pa.list_(_MESSAGE), _messages))


def checked(table: pa.Table, where: object) -> pa.Table:
    """Return a table of columns that `language_columns` chose, in which every sample has an answer.

    Args:
        table: The columns; those that hold text were looked at by `text_files.checked_texts`.
        where: What the table is, in an error.

    Returns:
        The same columns. What follows a conversation's last answer is left out: nothing is learned from it.

    Raises:
        ValueError: A sample has no answer, or is no conversation.
    """
    nested = {name: pa.types.is_nested(table[name].type) for name in table.column_names}
    if nested.get("text"):
        raise ValueError(f"'text' of {where} must hold text, got {table['text'].type}; name conversations messages")
    if not nested.get("messages", True):
        raise ValueError(
            f"'messages' of {where} must hold lists of messages, got text; a .jsonl or .parquet file can, or write the"
            " texts of a conversation as prompt and completion"
        )
    if len(set(nested.values())) > 1:
        raise ValueError(
            f"prompt and completion of {where} must both be text or both be lists of messages; convert one of them"
        )
    columns = {}
    for name in table.column_names:
        of = f"{name!r} of {where}"
        if nested[name]:
            columns[name] = _conversations(table[name], of, is_answered=name != "prompt")
        else:
            columns[name] = table[name].cast(pa.string())
            row = pc.index(pc.utf8_trim_whitespace(columns[name]), pa.scalar("")).as_py() + 1
            if row and name == "completion":
                raise ValueError(f"an answer must not be empty, and row {row} of {of} is; fill it in or remove the row")
    return pa.table(columns)


def _conversations(column: pa.ChunkedArray, where: str, *, is_answered: bool) -> pa.ChunkedArray:
    item = column.type.value_type if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else None
    fields = {field.name: field.type for field in item} if item is not None and pa.types.is_struct(item) else {}
    kinds = [fields.get(name, pa.null()) for name in ("role", "content")]
    remedy = _OTHER_KEYS if "from" in fields and "role" not in fields else "convert it"
    if any(not (pa.types.is_string(of) or pa.types.is_large_string(of)) for of in kinds):
        raise ValueError(f"{where} must hold lists of messages with role and content as text, got {column.type}; {remedy}")
    first, chunks = 0, []
    for chunk in column.chunks:
        chunks.append(_answered(chunk, where, first, is_answered=is_answered))
        first += len(chunk)
    return pa.chunked_array(chunks, pa.list_(_MESSAGE))


def _answered(lists: Any, where: str, first: int, *, is_answered: bool) -> pa.Array:
    """Return conversations up to their last answer, or prompts as they are; before them there are `first` others."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    starts, rows = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(lists)), lengths)
    if not lengths.all():
        raise ValueError(f"row {first + int(lengths.argmin()) + 1} of {where} must hold messages, and has none; remove the row")
    messages = pc.list_flatten(lists)
    roles, contents = (pc.struct_field(messages, name).cast(pa.string()) for name in ("role", "content"))
    is_answer = _mask(pc.equal(roles, "assistant"))
    wrong = {
        f"the role of a message must be one of {', '.join(ROLES)}, got {{role!r}} in {{where}}; correct it": pc.invert(
            pc.is_in(roles, pa.array(ROLES))
        ),
        "messages must have no tool_calls, which are not learned, and {where} has; remove the row": _has_calls(messages),
        "a message must have a content, and {where} has none; fill it in or remove the row": pc.is_null(contents),
        "an answer must not be empty, and {where} is; fill it in or remove the row": pc.and_(
            pa.array(is_answer & is_answered), pc.equal(pc.utf8_trim_whitespace(contents), "")
        ),
    }
    for sentence, mask in wrong.items():
        if (is_wrong := _mask(mask)).any():
            place = int(is_wrong.argmax())
            row = rows[place]
            of = f"message {place - starts[row] + 1} of row {first + row + 1} of {where}"
            raise ValueError(sentence.format(where=of, role=roles[place].as_py()))
    last = np.full(len(lists), -1)
    last[rows[is_answer]] = np.flatnonzero(is_answer)  # of several in a row, the last one stays
    if is_answered and (last < 0).any():
        raise ValueError(
            f"a conversation must have a message of the assistant to learn from, and row {first + int(last.argmin()) + 1} of"
            f" {where} has none; add it or remove the row"
        )
    is_kept = np.arange(len(rows)) <= last[rows] if is_answered else np.ones(len(rows), dtype=bool)
    kept = pa.StructArray.from_arrays([part.filter(pa.array(is_kept)) for part in (roles, contents)], fields=list(_MESSAGE))
    ends = np.cumsum(np.bincount(rows[is_kept], minlength=len(lists)))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), kept, type=pa.list_(_MESSAGE))


def _has_calls(messages: Any) -> Any:
    place = messages.type.get_field_index("tool_calls")
    calls = pc.struct_field(messages, [place]) if place >= 0 else pa.nulls(len(messages))
    return pc.greater(pc.list_value_length(calls), 0) if pa.types.is_list(calls.type) else pc.is_valid(calls)


def _mask(values: Any) -> Any:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)
