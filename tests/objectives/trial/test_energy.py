"""The energy of a training, told apart from that of its evaluations."""

from types import SimpleNamespace

import pytest

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trial.training import LearningCurve


class Gpu:
    """A clock, and a counter that rises by 100 J a second."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.job = TextClassificationJob()

    def work(self, seconds: float) -> None:
        self.now_s += seconds

    def clock_s(self) -> float:
        return self.now_s

    def energy_j(self) -> float:
        return 100.0 * self.now_s


def evaluated_twice(gpu: Gpu, curve: LearningCurve) -> None:
    """Three seconds of training with two evaluations of half a second between them."""

    def evaluate() -> dict[str, float]:
        gpu.work(0.5)
        return {"eval_loss": 1.0}

    trainer = SimpleNamespace(
        evaluate=evaluate, state=SimpleNamespace(epoch=1.0), train_dataset=range(8), add_callback=lambda callback: None
    )
    curve.attach(trainer)
    curve.on_train_begin()
    for epoch in (1.0, 2.0):
        gpu.work(1.5)
        trainer.state.epoch = epoch
        trainer.evaluate()


def test_what_evaluations_use_is_no_part_of_the_trainings_energy() -> None:
    gpu = Gpu()
    curve = LearningCurve(gpu)
    curve.energy_j = gpu.energy_j
    evaluated_twice(gpu, curve)
    assert curve.eval_energy_j == pytest.approx(100.0)
    assert curve.eval_time_s == pytest.approx(1.0)
    assert [point.train_time_s for point in curve.evaluations] == pytest.approx([1.5, 3.0])


def test_without_a_counter_evaluations_have_no_energy() -> None:
    gpu = Gpu()
    curve = LearningCurve(gpu)
    evaluated_twice(gpu, curve)
    assert curve.eval_energy_j == 0.0
