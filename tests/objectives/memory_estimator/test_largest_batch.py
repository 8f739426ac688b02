"""The largest batch that fits, found between and beyond those that are known."""

import pytest

from tradeoff.objectives.memory_estimator.largest_batch import largest_batch


@pytest.mark.parametrize("known", [(1, 2, 4), (8, 16, 32, 64), (100,), (3, 200)])
@pytest.mark.parametrize("most_that_fits", [1, 2, 3, 7, 31, 32, 33, 63, 64, 100, 131])
def test_it_is_found_whatever_is_known(known, most_that_fits):
    assert largest_batch(lambda batch: batch <= most_that_fits, known, most=1000) == most_that_fits


def test_nothing_fits_and_everything_fits():
    assert largest_batch(lambda batch: False, (4, 8), most=64) is None
    assert largest_batch(lambda batch: True, (4, 8), most=50) == 50
    assert largest_batch(lambda batch: True, (4, 100), most=50) == 50


def test_few_batches_are_looked_at():
    looked_at = []

    def fits(batch):
        looked_at.append(batch)
        return batch <= 50

    assert largest_batch(fits, (16, 32, 64), most=65_536) == 50
    # The three that are known, and 48, 56, 52, 50, 51.
    assert len(looked_at) == 8


@pytest.mark.parametrize("guess", [1, 30, 49, 50, 51, 63, 64, 900])
def test_a_guess_changes_only_how_many_are_looked_at(guess):
    looked_at = []

    def fits(batch):
        looked_at.append(batch)
        return batch <= 50

    assert largest_batch(fits, (16, 32, 64), most=65_536, guess=guess) == 50
    if guess == 50:
        assert looked_at == [16, 32, 64, 50, 51]


def test_a_line_between_two_batches_says_where_to_look():
    looked_at = []

    def fits(batch):
        looked_at.append(batch)
        return 10 + 3 * batch <= 1000

    found = largest_batch(fits, (64, 1024), most=65_536, between=lambda low, high: low + (1000 - 10 - 3 * low) // 3)
    assert found == 330
    assert looked_at == [64, 1024, 330, 331]
