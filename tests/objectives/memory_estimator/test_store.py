"""Traces on disk, and what is left of one that was not written to its end."""

import os
import time

import pytest

from tradeoff.objectives.memory_estimator import store
from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import TraceSettings

SETTINGS = TraceSettings(sequence_length=16, attention="eager")


def opened(folder):
    return store.TraceStore({"hidden_size": 32}, SETTINGS, folder)


def segments(key=1):
    names = Segments.__dataclass_fields__
    return Segments(**{name: (Event(key, 64, next(iter(Category))),) for name in names})


def test_a_trace_is_read_again_as_it_was_put(tmp_path):
    opened(tmp_path).put("forward", segments())
    assert opened(tmp_path).get("forward") == segments()
    assert [path.suffix for path in tmp_path.iterdir()] == [".gz"]


def test_a_trace_that_can_not_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        opened(tmp_path).put("forward", segments(key={1}))
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_can_not_be_moved_to_its_place_leaves_nothing_behind(tmp_path):
    (opened(tmp_path)._path(tmp_path, "forward") / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="forward"):
        opened(tmp_path).put("forward", segments())
    assert list(tmp_path.glob("*.part")) == []


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    for name, age_s in (("old.part", 3700), ("new.part", 60), ("old.json.gz", 3700)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(time.time() - age_s,) * 2)
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.part", "old.json.gz"]


def test_a_folder_that_is_not_there_yet_has_nothing_to_remove(tmp_path):
    assert opened(tmp_path / "traces").get("forward") is None
