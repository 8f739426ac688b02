"""When the timed steps of a probe end, with the clock and the ranks in the test's hand."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tradeoff.objectives.trial.probe import COMPILING_STEPS, MAX_TIMED_STEPS, WARM_UP_STEPS, _time_prediction_steps, _UntilTimed
from tradeoff.objectives.trial.step_clock import StepClock

LAST_STEP = WARM_UP_STEPS + COMPILING_STEPS + MAX_TIMED_STEPS
STEP_S = 0.05


@dataclass
class Rank:
    """A rank of two that compiles in some steps, and is told each time what rank 0 and itself have said."""

    compiles_in: set[int]
    answers: list[list[int | None]] | None = None
    spread: float | None = 0.01
    said: list[tuple[int, int | None]] = field(default_factory=list)
    world_size: int = 2
    step: int = 0

    def gather(self, name, value):
        self.said.append((self.step, value))
        return self.answers.pop(0) if self.answers else [value, value]

    def last_step(self, *, compiles=True):
        """The step after which the rank's training ends."""
        clock = SimpleNamespace(update_s=[], micro_step_spread=self.spread)
        until = _UntilTimed(clock, lambda: self.step * STEP_S, lambda: None, 0.2, self, compiles=compiles)
        control = SimpleNamespace(should_training_stop=False)
        for self.step in range(1, LAST_STEP + 1):
            if self.step > WARM_UP_STEPS and self.step not in self.compiles_in:
                clock.update_s.append(0.01)
            until.on_step_end(None, SimpleNamespace(global_step=self.step), control)
            if control.should_training_stop:
                break
        return self.step


@pytest.mark.parametrize("compiles_in", [set(), {1}, {1, 2, 3}, {1, 2, 3, 4, 5}, {2, 6}], ids=str)
def test_ranks_agree_at_the_same_step_and_end_after_the_same_one_whatever_they_compile_when(compiles_in):
    rank = Rank(compiles_in, answers=[[3, 3], [0, 7]])
    assert rank.last_step() == WARM_UP_STEPS + COMPILING_STEPS + 4
    assert [step for step, _ in rank.said] == [WARM_UP_STEPS + COMPILING_STEPS + 1, WARM_UP_STEPS + COMPILING_STEPS + 4]


def test_ranks_that_compile_nothing_agree_after_the_warm_up():
    rank = Rank(set())
    assert rank.last_step(compiles=False) == WARM_UP_STEPS + 4
    assert rank.said == [(WARM_UP_STEPS + 1, 3), (WARM_UP_STEPS + 4, 0)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_steps_that_differ_are_timed_for_longer_and_not_without_end(world_size):
    # 0.2 s are 4 steps of 0.05 s, and 1 s is 20.
    assert Rank(set(), world_size=world_size).last_step(compiles=False) == WARM_UP_STEPS + 4
    for spread in (None, 0.2):
        assert Rank(set(), spread=spread, world_size=world_size).last_step(compiles=False) == WARM_UP_STEPS + 20


def test_the_spread_of_three_steps_or_more_is_the_error_of_their_median():
    clock = StepClock(lambda: 0.0, skip_steps=0)
    clock.micro_step_s = [1.0, 1.2]
    assert clock.micro_step_spread is None
    # A standard deviation of 0.1 over sqrt(3) steps, by sqrt(pi / 2), of a median of 1.1.
    clock.micro_step_s = [1.0, 1.1, 1.2]
    assert clock.micro_step_spread == pytest.approx(0.1 / 3**0.5 * 1.2533 / 1.1, rel=1e-3)


def test_where_a_rank_has_timed_no_step_yet_all_go_on_to_the_last():
    late = Rank(set(range(1, 10)), answers=[[4, None]])
    assert late.last_step() == LAST_STEP
    assert late.said == [(WARM_UP_STEPS + COMPILING_STEPS + 1, None)]
    assert Rank(set(), answers=[[4, None]]).last_step() == LAST_STEP


def test_a_single_device_begins_to_time_after_the_last_step_that_compiled():
    assert Rank({1, 2, 3}, world_size=1).last_step() == 3 + 4


def test_an_evaluation_that_never_calls_prediction_step_has_no_time_of_a_batch():
    trainer = SimpleNamespace(prediction_step=lambda: None, evaluate=lambda **_: {"eval_f1": 0.5}, compute_metrics=None)
    assert _time_prediction_steps(SimpleNamespace(clock_s=lambda: 0.0), trainer, [1, 2]) is None
