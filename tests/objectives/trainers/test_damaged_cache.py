"""Prepared data that was damaged on disk since: noticed before it is used, and made again."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tradeoff.objectives.job.arguments import name_of_data
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers import prepared_data
from tradeoff.objectives.trainers.prepared_data import load, prepare
from tradeoff.objectives.trainers.workloads import load_workload

JOB = TextClassificationJob(train_samples=8, eval_samples=4, max_length=16)
FILES = (
    "prepared.json", "train/data-00000-of-00001.arrow", "train/state.json", "train/dataset_info.json",
    "eval/data-00000-of-00001.arrow", "eval/state.json", "eval/dataset_info.json",
    "model/config.json", "model/tokenizer.json", "model/tokenizer_config.json",
)  # fmt: skip


def replaced(content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content(path.read_bytes()))


def made_a_folder(path: Path) -> None:
    path.unlink()
    (path / "in the way").mkdir(parents=True)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": replaced(lambda _: b""),
    "half": replaced(lambda content: content[: len(content) // 2]),
    "zeros": replaced(lambda content: bytes(len(content))),
    "garbage": replaced(lambda content: b"\xff\x00\x9f" * len(content)),
    "another byte": replaced(lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]),
    "nested": replaced(lambda _: b"[" * 100_000),
    "huge numbers": replaced(lambda _: b'{"checksum": 1e999, "num_train": NaN, "longest": ' + b"9" * 5000 + b"}"),
    "a folder": made_a_folder,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds `JOB`."""
    cache = tmp_path_factory.mktemp("whole")
    prepare(JOB, cache)
    return cache


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def entry(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_data_of_which_any_file_is_damaged_is_prepared_again_and_that_is_said(damage: str, whole: Path, cache: Path) -> None:
    for name in FILES[[*DAMAGES].index(damage) % 3 :: 3]:  # every damage, every file, but not all of one in all of the others
        DAMAGES[damage](entry(cache) / name)
        said: list[str] = []
        prepared = prepare(JOB, cache, said.append)
        assert said == [f"the prepared data in {prepared.folder} was damaged: it is prepared again"], name
        assert {*content(prepared.folder)} == {*FILES}
        assert (len(prepared.train), len(prepared.eval)) == (8, 4)
    assert content(entry(cache))["train/data-00000-of-00001.arrow"] == content(entry(whole))["train/data-00000-of-00001.arrow"]
    assert prepare(JOB, cache, said.append).train[:] == prepared.train[:]
    assert len(said) == 1  # the last one, and nothing about what is whole


@pytest.mark.parametrize("part", ["", "train", "model"])
def test_a_file_in_place_of_a_folder_is_replaced(part: str, cache: Path) -> None:
    folder = entry(cache) / part
    shutil.rmtree(folder)
    folder.touch()
    said: list[str] = []
    assert len(prepare(JOB, cache, said.append).train) == 8
    assert len(said) == 1
    assert len([*cache.iterdir()]) == 1  # of what was damaged nothing is left


def test_a_file_too_many_is_damage_too(cache: Path) -> None:
    (entry(cache) / "model" / "added_tokens.json").write_text("{")
    assert prepare(JOB, cache).tokenizer is not None
    assert {*content(entry(cache))} == {*FILES}


def test_two_that_mend_the_same_data_at_once_both_have_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry(cache) / "prepared.json").unlink()
    both, write, found = threading.Barrier(2), prepared_data._write, []

    def write_with_the_other(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        both.wait(timeout=60)

    monkeypatch.setattr(prepared_data, "_write", write_with_the_other)
    threads = [threading.Thread(target=lambda: found.append(prepare(JOB, cache))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each.train) for each in found] == [8, 8]
    assert len([*cache.iterdir()]) == 1


def test_who_has_read_the_data_goes_on_while_another_mends_it(cache: Path) -> None:
    reader = load(entry(cache))
    before = reader.train
    (entry(cache) / "model" / "config.json").write_text("{")
    prepare(JOB, cache)
    assert before[:] == load(entry(cache)).train[:]
    assert len(reader.eval) == 4  # read only now
    assert load_workload(JOB, {name_of_data(JOB): str(entry(cache))})


def test_a_cache_may_be_moved(cache: Path, tmp_path: Path) -> None:
    moved = cache.rename(tmp_path / "elsewhere")
    said: list[str] = []
    assert Path(prepare(JOB, moved, said.append).model.name_or_folder).is_relative_to(moved)
    assert said == []


def test_a_trial_that_finds_its_data_damaged_says_which_file(cache: Path) -> None:
    facts = entry(cache) / "prepared.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"num_train": 7}))
    with pytest.raises(
        ValueError, match=rf"^{facts} must be as it was written, and is damaged .*; rerun the command: it is prepared again$"
    ):
        load(entry(cache))
