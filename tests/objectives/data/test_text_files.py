"""What people bring: each file is read as its owner means it, or refused in one sentence."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pytest

from tradeoff.objectives.data import text_files
from tradeoff.objectives.data.labels import class_numbers
from tradeoff.objectives.data.text_files import read_table

COLUMNS = {"text_column": "text", "label_column": "label"}
PAIRS = {"text_column": "text", "text_pair_column": "reply", "label_column": "label"}


def written(folder, name, content, *, encoding="utf-8"):
    path = folder / name
    content = content if isinstance(content, bytes) else content.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def rows(path, columns=COLUMNS, **options):
    table = read_table(path, columns, **options)
    return list(zip(*(table[name].to_pylist() for name in columns.values()), strict=True))


GOOD = [("good, would come again", "3"), ('"so-so"', "2"), ("two\nlines", "1")]
CSV = 'text,label\n"good, would come again",3\n"""so-so""",2\n"two\nlines",1\n'
# Without the time of compression, so that a test has one name.
GZIPPED = gzip.compress(CSV.encode(), mtime=0)
JSON = [{"text": text, "label": int(label)} for text, label in GOOD]
LINES = "".join(json.dumps(row) + "\n" for row in JSON)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("A.CSV", CSV),
        ("a.csv.gz", CSV),
        ("a.csv", GZIPPED),  # compressed, whatever its name says
        ("bom.csv", "\ufeff" + CSV),
        ("windows.csv", CSV.replace("\n", "\r\n").replace("two\r\n", "two\n")),
        ("blank-lines.csv", CSV.replace("text,label\n", "text,label\n\n") + "\n\n"),
        ("more-columns.csv", 'id, text ,label,x\n7,"good, would come again",3,\n8,"""so-so""",2,\n9,"two\nlines",1,\n'),
        ("a.tsv", 'text\tlabel\ngood, would come again\t3\n"""so-so"""\t2\n"two\nlines"\t1\n'),
        ("a.tsv.gz", 'label\ttext\n3\tgood, would come again\n2\t"""so-so"""\n1\t"two\nlines"\n'),
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("a.jsonl.gz", LINES),
        ("bom.jsonl", "\ufeff" + LINES),
        ("lines.json", "\n" + LINES),
        ("list.json", json.dumps(JSON, indent=2)),
        ("bom.json", "\ufeff" + json.dumps(JSON)),
        ("list.json.gz", json.dumps(JSON)),
    ],
)
def test_what_people_have_is_read(name, content, tmp_path):
    assert rows(written(tmp_path, name, content)) == GOOD


def test_parquet_is_read_whatever_holds_its_text(tmp_path):
    frame = pd.DataFrame({"text": [text for text, _ in GOOD], "label": [3, 2, 1], "other": 0})
    for kind in ("str", "category"):
        frame.astype({"text": kind}).to_parquet(tmp_path / "a.parquet")
        assert rows(tmp_path / "a.parquet") == [(text, int(label)) for text, label in GOOD]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "latin-1", "UTF8"])
def test_an_encoding_may_be_named(encoding, tmp_path):
    path = written(tmp_path, "a.csv", "text,label\ncafé,1\n", encoding=encoding)
    assert rows(path, encoding=encoding) == [("café", "1")]


def test_text_pairs_and_a_text_that_looks_missing_are_read(tmp_path):
    path = written(tmp_path, "a.csv", "label,reply,text\n1,None,N/A\n0,null,nan\n")
    assert rows(path, PAIRS) == [("N/A", "None", "1"), ("nan", "null", "0")]


HEADER = "text,label\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", HEADER + "good, would come again ,3\nbad,1\nfine, really,2\n", r"every row of .* must have the 2 fields of"
         r" its header, and row 1 \(line 2\) has 3, as 2 rows in all have another number; put a text that holds ',' in quotes"),
        ("a.csv", HEADER + "good,3\nbad\n", r"row 2 \(line 3\) has 1; put"),
        ("a.tsv", "text\tlabel\ngood\tvery\t3\n", r"row 1 \(line 2\) has 3; put a text that holds a tab in quotes"),
        ("a.csv", HEADER + '"two\nlines",1\nfine,"really",2\n', r"row 2 \(line 4\) has 3"),
        ("a.csv", HEADER + 'good,3\n"bad,1\nso-so,2\n', r"row that begins in line 3, a quoted text is never closed; .* twice"),
        ("a.csv", HEADER + '"good" indeed,3\n', r"row that begins in line 2, a quoted text is followed by more text; write"),
        ("a.csv", "text;label\ngood;3\n", r"text_column must name .* as if ';' separated them; save the file with ','"),
        ("a.csv", "text\tlabel\ngood\t3\n", r"as if '\\t' separated them; save the file as \.tsv"),
        ("a.tsv", "text,label\ngood,3\n", r"as if ',' separated them; save the file with '\\t'"),
        ("a.csv", "good food,3\nbad,1\n", r"its columns are 3, good food; if that is its first sample, the file has no header:"
         r" put the line text,label before it"),
        ("a.csv", "I really loved it.,positive\nbad,negative\n", r"the file has no header"),
        ("a.csv", "review,stars\ngood,3\n", r"text_column must name .*, got 'text'; its columns are review, stars$"),
        ("a.csv", "text,label,text\ngood,3,fine\n", r"must have one column 'text', got 2; rename or remove"),
        ("a.csv", HEADER + "good,3\n ,1\n,2\n", r"text column 'text' of .* must have no nulls or blanks, got 2, the first in"),
        ("a.csv", "", r"must hold a header and samples, and it is empty"),
        ("a.csv.gz", "", r"must hold a header and samples, and it is empty"),
        ("a.csv", "\n\n", r"must hold a header and samples, and it is empty"),
        ("a.csv", HEADER, r"must hold samples, and it is empty"),
        ("a.jsonl", "", r"must hold samples, and it is empty"),
        ("a.json", "[]", r"must hold samples, and it is empty"),
        ("a.csv", "text,label\ngood,1\ncafé,1\n".encode("cp1252"), r"must be in the encoding utf-8, and line 3 is not: if it"
         r" says 'café,1', set encoding to cp1252"),
        ("a.jsonl", '{"text": "café", "label": 1}\n'.encode("cp1252"), r"line 1 is not: if it says .*café"),
        ("a.csv", CSV.encode("utf-16"), r"begins as utf-16 does; set encoding to utf-16"),
        ("a.csv", CSV.encode("utf-16-le"), r"it holds zero bytes: set encoding .* probably utf-16-le"),
        ("a.csv", b"PK\x03\x04....", r"is a zip archive or an Excel sheet; save what it holds as CSV"),
        ("a.parquet", "text,label\n", r"can't be read as parquet: .*; it may be damaged, or of another kind"),
        ("a.csv", GZIPPED[:40], r"can't be read as csv: Compressed file ended .*; it may be damaged"),
        ("a.csv", GZIPPED + b"more", r"can't be read as csv: Not a gzipped file .*; it may be damaged"),
        ("a.jsonl.gz", '{"text": "good", "label": ' + '{"a":' * 100_000, r"line 1 is nested too deeply"),
        ("test.txt", HEADER, r"a data file must end in \.csv, \.tsv, .* or \.parquet, got .*test\.txt; rename it"),
        ("reviews", HEADER, r"a data file must end in \.csv, "),
        ("a.jsonl", '{"text": "good", "label": 1}\n{"text": "bad", "label"\n', r"line 2 is not JSON: .*; mend it"),
        ("a.json", '[{"text": "good", "label": 1},\n {"text": "bad" "label": 2}]', r"line 2 is not JSON: "),
        ("a.jsonl", '{"text": "good", "label": 1}\n3\n', r"an object a line, or one list of objects, got 3 as number 2"),
        ("a.jsonl", "[" * 100_000, r"must hold flat objects, and line 1 is nested too deeply"),
        ("a.jsonl", '{"text": ["a", "b"], "label": 1}\n', r"text_column must .* holds text, got \['a', 'b'\] in row 1"),
        ("a.jsonl", '{"text": "good", "label": [1]}\n', r"a label must be an integer or a word, got \[1\] in row 1"),
        ("a.jsonl", '{"text": "good", "label": 1}\n{"label": 1}\n', r"must have no nulls or blanks, got 1, the first in row 2"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', r"holds half of a character; remove it"),
        ("a.jsonl", '{"text": "good", "label": ' + "9" * 5000 + "}\n", r"line 1 is not JSON: a number is too long"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_with_certainty_is_one_sentence(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        rows(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json.gz", "[" * 3_000_000), ("a.json.gz", "\n" * 3_000_000), ("a.csv.gz", CSV + "a" * 3_000_000),
     ("a.tsv.gz", "\0" * 3_000_000), ("a.jsonl.gz", LINES * 50_000)],
)  # fmt: skip
def test_what_unpacks_to_more_than_text_can_is_not_unpacked(name, content, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_ALWAYS_UNPACKED", 1_000_000)
    with pytest.raises(ValueError, match="unpacks to more than 200 times its size, which no text does; unpack it yourself if"):
        rows(written(tmp_path, name, content))


def test_a_row_longer_than_any_text_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"at most 10,000,000 characters a row; split or remove row 2"):
        rows(written(tmp_path, "a.csv", "text,label\ngood,1\n" + "a " * 5_000_001 + ",1\n"))


def test_a_parquet_file_is_one_sentence_wherever_it_is_damaged(tmp_path):
    pd.DataFrame({"text": ["good"] * 100, "label": [1] * 100}).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    said = []
    for place in range(0, len(whole), len(whole) // 40):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path = written(tmp_path, "a.parquet", damaged)
            try:
                rows(path)
            except ValueError as error:
                said.append(str(error))
    assert len(said) > 40  # each that was cut off, and many with another byte
    assert all(str(tmp_path / "a.parquet") in sentence and "\n" not in sentence for sentence in said)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"the data file must exist, got .*a\.csv; a relative path"):
        rows(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"the data must be a file, and it is a directory"):
        rows(tmp_path)


def numbered(train, evaluation=None, *, num_labels):
    columns = [(pa.chunked_array([pa.array(train)]), "label column of train.csv")]
    if evaluation is not None:
        columns.append((pa.chunked_array([pa.array(evaluation)]), "label column of eval.csv"))
    numbers, names = class_numbers(columns, num_labels=num_labels)
    return [column.tolist() for column in numbers], names


@pytest.mark.parametrize(
    ("labels", "num_labels", "expected", "names"),
    [
        (["1.0", " 2", "3.0", "2e0"], 3, [0, 1, 2, 1], None),
        ([0.0, 4.0], 5, [0, 4], None),
        ([True, False, True], 2, [1, 0, 1], ("false", "true")),
        (["True", "false", "TRUE"], 2, [1, 0, 1], ("false", "true")),
        (["yes", "no ", "yes"], 2, [1, 0, 1], ("no", "yes")),
        (["b", "ä", "a", "None"], 4, [2, 3, 1, 0], ("None", "a", "b", "ä")),
    ],
)
def test_labels_are_numbers_stars_or_words_in_sorted_order(labels, num_labels, expected, names):
    assert numbered(labels, num_labels=num_labels) == ([expected], names)


def test_evaluation_data_has_the_mapping_of_the_training_data():
    assert numbered(["a", "c", "b"], ["c", "c"], num_labels=3) == ([[0, 2, 1], [2, 2]], ("a", "b", "c"))
    assert numbered(pd.Series(["a", "b"], dtype="category"), ["b"], num_labels=2) == ([[0, 1], [1]], ("a", "b"))


@pytest.mark.parametrize(
    ("train", "evaluation", "num_labels", "message"),
    [
        (
            ["a", "b"],
            ["b", "d"],
            2,
            r"must be one of the training data's \(a, b\), got 'd' in row 2 of the label column of eval",
        ),
        (["a", "b", "c"], None, 5, r"num_labels must be 3, the number of classes in the .* \(a, b, c\), got 5"),
        ([str(n) + "x" for n in range(99)], None, 5, r"num_labels must be 99, .* \(0x, 10x, .*, \.\.\.\), got 5"),
        (["a", "a"], None, 2, r"labels must be of at least two classes, and the label column of train\.csv has only 'a'"),
        (["a", "3"], None, 2, r"all integers or all words, got 3 in row 2 of .* and 'a' in row 1 of"),
        ([1, 2], ["good"], 2, r"all integers or all words, got 1 in row 1 of .*train\.csv and 'good' in row 1 of .*eval\.csv"),
        (["1", None], None, 2, r"got nothing in row 2 of the label column of train\.csv; fill it in"),
        ([1.0, float("nan")], None, 2, r"got nothing in row 2"),
        ([1.0, 2.5], None, 2, r"an integer or a word, got 2\.5 in row 2"),
        (["1", "1e400"], None, 2, r"an integer or a word, got 1e400 in row 2"),
        ([[1], [2]], None, 2, r"an integer or a word, got list<.*> in the label column"),
        ([None, None], None, 2, r"got nothing in row 1"),
    ],
)
def test_a_label_that_cannot_be_meant_is_one_sentence(train, evaluation, num_labels, message):
    with pytest.raises(ValueError, match=message):
        numbered(train, evaluation, num_labels=num_labels)
