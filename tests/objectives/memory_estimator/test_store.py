"""Traces on disk, and what is left of one that was not written to its end."""

import errno
import gzip
import json
import os
import time

import pytest

from tradeoff.objectives.memory_estimator import store
from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import TraceSettings

SETTINGS = TraceSettings(sequence_length=16, attention="eager")


def opened(folder, say=lambda _: None):
    return store.TraceStore({"hidden_size": 32}, SETTINGS, folder, say)


def segments(key="block"):
    names = Segments.__dataclass_fields__
    events = tuple(Event(key, size, category) for size, category in ((64, Category.WEIGHTS), (None, None), (64, None)))
    return Segments(**dict.fromkeys(names, events))


def test_a_trace_is_read_again_as_it_was_put(tmp_path):
    opened(tmp_path).put("forward", segments())
    assert opened(tmp_path).get("forward") == segments()
    assert [path.suffix for path in tmp_path.iterdir()] == [".gz"]


def zipped(text):
    return gzip.compress(text, mtime=0)  # processes that share the tests must find the same ones


WHOLE = zipped(json.dumps({name: [["block", 64, "weights"]] for name in Segments.__dataclass_fields__}).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"", WHOLE[: len(WHOLE) // 2], WHOLE[:-4], bytes(len(WHOLE)), b"\xff\x00" * 50, WHOLE[:20] + b"\xff\xff" + WHOLE[22:],
        *(zipped(text) for text in (b"", b"{}", b"[1]", b"[" * 100_000, b"NaN", WHOLE, b"\xff")),
        *(zipped(gzip.decompress(WHOLE).replace(b"64", number)) for number in (b"NaN", b"1e999", b"9" * 5000)), None,
    ],
)  # fmt: skip
def test_a_trace_that_is_damaged_is_said_and_made_again(content, tmp_path):
    path = opened(tmp_path)._path(tmp_path, "forward")
    (path / "in the way").mkdir(parents=True) if content is None else path.write_bytes(content)
    said = []
    damaged = opened(tmp_path, said.append)
    assert damaged.get("forward") is None
    assert len(said) == 1
    assert said[0].startswith(f"the stored trace {path} can't be read (")
    damaged.put("forward", segments())
    assert opened(tmp_path, said.append).get("forward") == segments()
    assert len(said) == 1


def test_a_trace_that_can_not_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    said = []
    traces = opened(tmp_path, said.append)
    for key in ("forward", "another"):
        traces.put(key, segments())
        assert traces.get(key) == segments()
    assert said == [f"traces can't be kept in {tmp_path} (No space left on device); mend that, or set TRADEOFF_CACHE"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_costs_no_more_than_time(tmp_path):
    (tmp_path / "traces").touch()
    said = []
    traces = opened(tmp_path / "traces", said.append)
    assert traces.get("forward") is None
    traces.put("forward", segments())
    assert [line.partition(" (")[0] for line in said] == [f"traces can't be kept in {tmp_path / 'traces'}"]


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    for name, age_s in (("old.part", 3700), ("new.part", 60), ("old.json.gz", 3700)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(time.time() - age_s,) * 2)
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.part", "old.json.gz"]


def test_a_folder_that_is_not_there_yet_has_nothing_to_remove(tmp_path):
    assert opened(tmp_path / "traces").get("forward") is None
