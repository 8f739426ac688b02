"""What other processes take of the processors, with the system's figures in the test's hand."""

import os
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from tradeoff.objectives.device.load import ProcessorLoad


class Processor(NamedTuple):
    user: float
    system: float
    idle: float
    iowait: float = 0.0
    guest: float = 0.0


class Machine:
    """Two processors of this process, and one that is not its own."""

    def __init__(self, monkeypatch):
        self.busy, self.idle, self.own, self.childs = 0.0, 0.0, 0.0, 0.0
        monkeypatch.setattr(psutil, "cpu_times", self.cpu_times)
        monkeypatch.setattr(psutil, "Process", lambda: self)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)

    def cpu_times(self, percpu=False):
        if not percpu:
            return (self.own, 0.0, 0.0, 0.0)
        one = Processor(user=self.busy / 2, system=0.0, idle=self.idle / 2, guest=0.0)
        return [one, one, Processor(user=1000.0 * self.busy, system=0.0, idle=0.0)]

    def children(self, recursive):
        return [SimpleNamespace(cpu_times=lambda: (self.childs, 0.0, 0.0, 0.0))]


@pytest.mark.parametrize(
    ("busy_s", "idle_s", "own_s", "children_s", "share"),
    [
        (2.0, 0.0, 1.0, 0.0, 0.5),
        (2.0, 0.0, 1.5, 0.5, 0.0),
        (1.8, 0.2, 1.2, 0.1, 0.25),
        # Half of the processors idle: whatever else runs has not been in the way.
        (1.0, 1.0, 0.5, 0.0, 0.0),
        # Clocks that tick every 10 ms may say that a process has used more than there is.
        (2.0, 0.0, 2.1, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_others_take_what_is_neither_idle_nor_ours(monkeypatch, busy_s, idle_s, own_s, children_s, share):
    machine = Machine(monkeypatch)
    load = ProcessorLoad()
    machine.busy, machine.idle, machine.own, machine.childs = busy_s, idle_s, own_s, children_s
    assert load.busy_share() == pytest.approx(share)
