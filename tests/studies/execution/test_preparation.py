"""Preparing a study while its processes are killed."""

import os
import signal
import threading
from pathlib import Path

import pytest
from running import Children, Recorder, poll, shared_server, tiny_job, tiny_study
from transformers import AlbertConfig

from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer
from tradeoff.objectives.trial.messages import Answer
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import ProcessLostError, prepare
from tradeoff.studies.workers.worker import Assignment, work

# Data that takes far longer to prepare than a kill does.
LONG = tiny_job(train_samples=50_000).model_dump()
WAS_KILLED = "the process of the task 'prepare' was killed by SIGKILL"


def kill_preparation() -> None:
    (pid,) = poll(Children().trials, "the process that prepares the data")
    os.kill(pid, signal.SIGKILL)


class KillsPreparation(Recorder):
    """A display that kills the process that prepares the data as soon as it is there."""

    thread: threading.Thread

    def message(self, line: str) -> None:
        super().message(line)
        if line == "preparing the data":
            self.thread = threading.Thread(target=kill_preparation)
            self.thread.start()


def test_a_process_that_is_killed_while_it_prepares_the_data_is_one_sentence(tmp_path: Path) -> None:
    display = KillsPreparation()
    with pytest.raises(ProcessLostError, match=WAS_KILLED):
        prepare(tiny_study(job=LONG), shared_server(), Interrupts(), display=display, cache=tmp_path)
    display.thread.join()


def test_a_worker_whose_process_was_killed_ends_so_that_another_is_started(tmp_path: Path) -> None:
    assignment = Assignment(
        config=tiny_study(job=LONG).plain(), storage=f"sqlite:///{tmp_path}/a.db", creates=True, estimates_memory=False,
        deadline_unix_s=None, cache=str(tmp_path),
    )  # fmt: skip
    display = KillsPreparation()
    end = work(assignment, shared_server(), display=display, interrupts=Interrupts())
    display.thread.join()
    assert end.how == "lost"
    assert WAS_KILLED in end.reason


def test_what_the_model_can_not_do_is_neither_searched_nor_estimated(tmp_path: Path) -> None:
    config = AlbertConfig(
        vocab_size=len(reviews_tokenizer()), embedding_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    for part in (config, reviews_tokenizer()):
        part.save_pretrained(tmp_path / "model")
    study = tiny_study(
        job=tiny_job(model=str(tmp_path / "model")).model_dump(),
        space={"per_device_train_batch_size": [8], "gradient_checkpointing": [False, True]},
        memory_estimate="auto",
    )
    display = Recorder()
    ready = prepare(study, shared_server(), Interrupts(), display=display, cache=tmp_path / "cache", estimates_memory=True)
    assert ready.space.domains["gradient_checkpointing"].values() == (False,)
    assert any(line.startswith("gradient_checkpointing left out: the model") for line in display.messages)
    assert ready.estimation is not None
    assert ready.estimation.task is not None
    assert isinstance(ready.estimation.task.reply(timeout_s=120), Answer)
