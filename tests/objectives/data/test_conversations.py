"""What a language model learns from: each file is read as TRL means it, or refused in one sentence."""

import gzip
import json
from contextlib import nullcontext

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from tradeoff.objectives.data import sources
from tradeoff.objectives.data.conversations import language_texts
from tradeoff.objectives.data.sources import labelled_texts
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def chat(*contents):
    """User and assistant in turn."""
    return [message(role, content) for role, content in zip(("user", "assistant") * len(contents), contents, strict=False)]


CHATS = [{"messages": chat(f"question {row}", f"answer {row}"), "source": "x"} for row in range(6)]
TEXTS = [{"prompt": f"question {row}", "completion": f"answer {row}", "text": "not read"} for row in range(6)]
ASKED = [{"prompt": chat(f"question {row}"), "completion": [message("assistant", f"answer {row}")]} for row in range(6)]
PLAIN = [{"text": f"text {row}", "label": row} for row in range(6)]


def write(path, rows):
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        pd.DataFrame(rows).to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        content = (json.dumps(rows) if path.suffix == ".json" else lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path, **settings):
    return language_texts(CausalLMJob(dataset=str(path), **({"train_samples": 4, "eval_samples": 2} | settings)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize(
    ("rows", "kind", "columns"),
    [
        (CHATS, "messages", ["messages"]),
        (TEXTS, "prompt_completion", ["prompt", "completion"]),
        (ASKED, "prompt_completion", ["prompt", "completion"]),
        (PLAIN, "text", ["text"]),
    ],
)
def test_every_file_gives_the_columns_that_trl_reads(name, rows, kind, columns, tmp_path):
    texts = read(write(tmp_path / name, rows))
    assert (texts.kind, texts.train.column_names, texts.eval.column_names) == (kind, columns, columns)
    found = sorted((*texts.train, *texts.eval), key=str)
    assert found == [{name: row[name] for name in columns} for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(("rows", "columns"), [(TEXTS, ["prompt", "completion"]), (PLAIN, ["text"])])
def test_a_table_of_texts_is_read(name, rows, columns, tmp_path):
    texts = read(write(tmp_path / name, rows))
    assert sorted((*texts.train, *texts.eval), key=str) == [{name: row[name] for name in columns} for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_labels_that_are_not_read_are_said(name, tmp_path):
    path, judged = tmp_path / name, [{**row, "Label": False} for row in TEXTS]
    said = f"of {path} is not read; to learn labels set job.task to text_classification"
    assert read(write(path, PLAIN)).notices == [f"label {said}"]
    assert read(write(path, judged)).notices == [f"Label {said}"]
    assert read(write(path, [{"text": row["text"], "source": "web"} for row in PLAIN])).notices == []


def test_the_samples_are_those_of_the_shuffle_of_datasets(tmp_path):
    texts = read(write(tmp_path / "a.jsonl", PLAIN), data_seed=7)
    expected = datasets.Dataset.from_list(PLAIN).shuffle(seed=7)["text"]
    assert [*texts.train["text"], *texts.eval["text"]] == list(expected)


def test_a_second_file_is_evaluated_on_and_may_be_of_another_kind_of_file(tmp_path):
    paths = write(tmp_path / "a.jsonl", CHATS), write(tmp_path / "b.parquet", CHATS[:2])
    texts = read(paths[0], eval_dataset=str(paths[1]), train_samples=None, eval_samples=None)
    assert (len(texts.train), len(texts.eval), texts.contents) == (6, 2, {})


def test_the_hub_is_read_in_the_same_way_and_gives_fingerprints(monkeypatch):
    monkeypatch.setattr(sources, "hub_access", lambda kind, name: nullcontext())
    rows = {"train": CHATS, "test": CHATS[:3]}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: datasets.Dataset.from_list(rows[split]))
    texts = read("owner/chats", eval_samples=None)
    assert (texts.kind, len(texts.train), len(texts.eval)) == ("messages", 4, 3)
    assert [of.partition(",")[0] for of in (texts.contents["train"], texts.contents["eval"])] == ["6 rows", "3 rows"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_only_role_and_content_of_a_message_are_read_up_to_the_last_answer(name, tmp_path):
    rows = [
        {"messages": [message("system", ""), *chat("a", "b", "c", "d", "e")]},
        {"messages": [message("user", "f", name="me", tool_calls=None), message("assistant", "g", name=None, tool_calls=None)]},
    ]
    texts = read(write(tmp_path / name, rows), train_samples=2, eval_samples=0)
    found = sorted(texts.train["messages"], key=len)
    assert found == [chat("f", "g"), [message("system", ""), *chat("a", "b", "c", "d")]]


def test_a_prompt_may_end_with_anyone_and_is_not_cut(tmp_path):
    prompt = [message("system", "a"), *chat("b", "c", "d")]
    path = write(tmp_path / "a.jsonl", [{"prompt": prompt, "completion": [message("assistant", "e")]}])
    assert read(path, train_samples=1, eval_samples=0).train["prompt"][0] == prompt


ONE = r"message 1 of row 2 of 'messages' of .*a\."


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"messages": []}], r"row 2 of 'messages' of .* must hold messages, and has none; remove"),
        ([{"messages": [message("bot", "x")]}], rf"must be one of system, user, assistant, tool, got 'bot' in {ONE}"),
        ([{"messages": [message(None, "x")]}], rf"the role of a message must be .*, got None in {ONE}"),
        ([{"messages": [message("user", None)]}], rf"a message must have a content, and {ONE}.* has none; fill"),
        ([{"messages": chat("x", " \n")}], r"an answer must not be empty, and message 2 of row 2 of .* is; fill it in"),
        ([{"messages": chat("x")}], r"must have a message of the assistant to learn from, and row 2 of .* has none; add"),
        (
            [{"messages": [*chat("x"), message("assistant", "", tool_calls=[{"name": "f"}])]}],
            r"must have no tool_calls, .* and message 2 of .*row 2 .*has; remove the row",
        ),
    ],
)
def test_a_conversation_that_teaches_nothing_is_named_by_its_row(name, rows, message, tmp_path):
    first = {"messages": chat("question", "answer")}
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path / name, [first, *rows]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a.jsonl", [{"messages": chat("a", "b")}, {"messages": "hello"}], r"a list in every row, .* got 'hello' in row 2 of"),
        (
            "a.jsonl",
            [{"messages": chat("a", "b")}, {}],
            r"must hold a list in every row, as in the first one, got None in row 2",
        ),
        ("a.jsonl", [{"messages": ["hello"]}], r"an object with role and content, got 'hello' as message 1 of .* row 1 of"),
        ("a.jsonl", [{"messages": [message("user", 5)]}], r"the content of a message must be text, got 5 in message 1 of"),
        (
            "a.jsonl",
            [{"messages": [message("user", [{"type": "text"}])]}],
            r"content of a message must be text, got \[\{'type'",
        ),
        ("a.jsonl", [{"messages": "hello"}], r"'messages' of .* must hold lists of messages, got text; a .jsonl or .parquet"),
        ("a.csv", [{"messages": "hello"}], r"'messages' of .* must hold lists of messages, got text; a .jsonl or .parquet"),
        ("a.parquet", [{"messages": [{"x": "y"}]}], r"with role and content as text, got list<.*; convert it"),
        ("a.parquet", [{"messages": {"role": "user"}}], r"lists of messages with role and content as text, got struct<"),
        ("a.jsonl", [{"prompt": "a", "completion": " "}], r"'completion' of .* must have no nulls or blanks, .* in row 1;"),
        ("a.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "a"}], r"'completion' of .* no nulls .* in row 2; remove"),
        ("a.csv", [{"prompt": "a", "completion": "b"}, {"prompt": "a"}], r"'completion' of .* no nulls .* in row 2; remove"),
        ("a.jsonl", [{"prompt": "a"}], r"and .* has prompt; prompt alone is not enough"),
        (
            "a.jsonl",
            [{"prompt": "a", "completion": "b"}, {"prompt": ["a"]}],
            r"'prompt' must hold text as in row 1, got \['a'\]",
        ),
        ("a.jsonl", [{"prompt": chat("a"), "completion": "b"}], r"must both be text or both be lists of messages; convert one"),
        ("a.jsonl", [{"prompt": chat("a"), "completion": []}], r"row 1 of 'completion' of .* must hold messages, and has none"),
        (
            "a.jsonl",
            [{"prompt": chat("a"), "completion": chat("b")}],
            r"a message of the assistant to learn from, and row 1 of",
        ),
        ("a.jsonl", [{"text": "a"}, {"text": "  "}], r"'text' of .* must have no nulls or blanks, got 1, the first in row 2"),
        ("a.jsonl", [{"text": ["a"]}], r"'text' must hold text.*, got \['a'\] in row 1"),
        ("a.parquet", [{"text": ["a"]}], r"text column 'text' of .* must hold text, got list<"),
        ("a.jsonl", [{"chat": "a"}], r"learns from a column messages, .* and .*a\.jsonl has chat; rename those that you mean"),
        ("a.csv", [{"review": "a", "stars": 1}], r"has review, stars; rename .* to text, or set job.task to text_classif"),
        ("a.jsonl", [{"messages": [{"from": "human", "value": "a"}]}], "has from, value; rename from to role and value to"),
        ("a.parquet", [{"messages": [{"from": "human", "value": "a"}]}], "rename from to role and value to content"),
        ("a.jsonl", [{"conversations": []}], r"has conversations; rename conversations to messages, and the keys"),
    ],
)
def test_what_is_no_data_of_a_language_model_is_one_sentence(name, rows, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path / name, rows))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_empty_answer_of_the_hub_is_named_and_an_empty_line_of_text_is_not(monkeypatch):
    monkeypatch.setattr(sources, "hub_access", lambda kind, name: nullcontext())
    rows = [{"text": "title"}, {"text": ""}]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: datasets.Dataset.from_list(rows))
    assert len(read("owner/texts", train_samples=2, eval_samples=0).train) == 2
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}]
    with pytest.raises(ValueError, match=r"must not be empty, and row 2 of 'completion' of owner/texts \(train\) is; fill"):
        read("owner/texts", train_samples=2, eval_samples=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [(PLAIN, r"must have the same columns, got messages and text; rename"), (ASKED, r"got messages and prompt, completion")],
)
def test_both_parts_hold_the_same(other, message, tmp_path):
    paths = write(tmp_path / "a.jsonl", CHATS), write(tmp_path / "b.jsonl", other)
    with pytest.raises(ValueError, match=message):
        read(paths[0], eval_dataset=str(paths[1]))


def test_both_parts_are_texts_or_both_are_messages(tmp_path):
    paths = write(tmp_path / "a.jsonl", TEXTS), write(tmp_path / "b.jsonl", ASKED)
    with pytest.raises(ValueError, match=r"must both hold texts or both lists of messages; convert one of them"):
        read(paths[0], eval_dataset=str(paths[1]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("rows", [CHATS, TEXTS, ASKED])
def test_a_classifier_is_told_which_task_reads_answers(name, rows, tmp_path):
    path = write(tmp_path / name, rows)
    with pytest.raises(ValueError, match=r"must name a column of .*; to learn its answers set job.task to causal_lm$"):
        labelled_texts(TextClassificationJob(dataset=str(path), train_samples=4, eval_samples=2))


def test_embedded_conversations_are_as_many_as_the_job_asks_for():
    texts = language_texts(CausalLMJob(train_samples=20, eval_samples=5))
    assert (texts.kind, len(texts.train), len(texts.eval), texts.contents) == ("messages", 20, 5, {})
    assert language_texts(CausalLMJob(train_samples=20, eval_samples=0)).eval is None
    with pytest.raises(ValueError, match="generated samples are unlimited: set train_samples and eval_samples to numbers"):
        language_texts(CausalLMJob(train_samples=None))
