"""The channel between two processes, and what arrives over it."""

import math
import socket
import threading

import pytest
from pydantic import ValidationError

from tradeoff.objectives.measurements.outcome import Completed, Measurements, Memory, TrainingResult
from tradeoff.objectives.trial import messages
from tradeoff.objectives.trial.messages import FROM_TRIAL, REQUEST, Channel, Finished, Measured, Progress


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    return Channel(ours, FROM_TRIAL), Channel(theirs, REQUEST)


def training(loss):
    samples = [(float(second), 100.0) for second in range(100_000)]  # more than a socket holds
    result = TrainingResult(
        memory=Memory(peak_memory_mib=1.0), train_time_s=1.0, eval_time_s=0.0, num_steps=1, num_samples=1, samples_per_s=1.0,
        train_loss=loss, memory_samples=samples,
    )  # fmt: skip
    return Measurements(training=result)


def test_a_message_arrives_as_it_was_sent_however_large(pair):
    ours, theirs = pair
    sent = Finished(outcome=Completed(measurements=training(0.5)), at_s=1.5)
    sender = threading.Thread(target=theirs.send, args=(sent,))
    sender.start()
    assert ours.receive() == sent
    sender.join()


def test_a_loss_that_is_not_a_number_stays_one(pair):
    ours, theirs = pair
    sender = threading.Thread(target=theirs.send, args=(Measured(measurements=training(math.nan)),))
    sender.start()
    assert math.isnan(ours.receive().measurements.training.train_loss)
    sender.join()


def test_messages_wait_in_order_and_the_end_is_heard_after_them(pair):
    ours, theirs = pair
    assert not ours.poll()
    theirs.send(Progress(stage="data"))
    theirs.send(Progress(stage="probe", step=1, total=2))
    theirs.close()
    assert [ours.receive().event(), ours.receive().event()] == [{"stage": "data"}, {"stage": "probe", "step": 1, "total": 2}]
    assert ours.poll()
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(ConnectionError):
        ours.send({"task": "describe"})


def test_a_sender_that_stops_in_the_middle_of_a_message_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(messages, "REST_LIMIT_S", 1)
    ours, theirs = socket.socketpair()
    channel = Channel(ours, FROM_TRIAL)
    theirs.sendall(b"\0\0\0\x40{")
    with pytest.raises(EOFError):
        channel.receive()


@pytest.mark.parametrize("text", [b"not JSON", b"\xff"])
def test_what_is_no_message_is_the_end_of_the_conversation(text):
    ours, theirs = socket.socketpair()
    theirs.sendall(len(text).to_bytes(4) + text)
    with pytest.raises(EOFError):
        Channel(ours, FROM_TRIAL).receive()


@pytest.mark.parametrize("wrong", [{"kind": "unknown"}, {"kind": "progress", "stage": "lunch"}, {"stage": "data"}])
def test_a_message_of_no_known_kind_is_refused(pair, wrong):
    ours, theirs = pair
    theirs.send(wrong)
    with pytest.raises(ValidationError):
        ours.receive()
