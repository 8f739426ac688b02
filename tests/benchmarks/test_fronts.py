"""The benchmark of search methods: what is claimed is worth what it would be worth to its user, and every method can play."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare_fronts import errors
from fronts.methods import METHODS, decoupled
from fronts.score import Scorer, area, held
from fronts.table import Bench, Row, Table, Values, key_of

TABLES = sorted((Path(__file__).parents[2] / "benchmarks" / "fronts" / "tables").glob("*.json"))
BATCHES, STEPS, LIMIT_MIB = (4, 8, 16, 32), (1, 2), 1000.0


def table(**changes):
    """A job in which half the batch takes more time, less memory and learns more; a batch of 32 runs out of memory."""
    rows = [
        Row(
            parameters={"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps},
            learning_class=str(batch * steps),
            num_epochs=1,
            micro_step_s=(0.05 + 0.01 * batch,),
            update_s=0.01,
            num_micro_steps=1000 / batch,
            num_updates=1000 // batch // steps,
            eval_s=1.0,
            peak_memory_mib=200 + 40.0 * batch + 20 * (steps > 1),
            start_s=0.5,
            probe_s=0.5,
        )
        for batch in BATCHES
        for steps in STEPS
    ]
    curves = {str(size): [[0.9 - 0.04 * np.log2(size) + 0.01 * seed] for seed in (-1, 0, 1)] for size in (4, 8, 16, 32, 64)}
    values = {
        "name": "small",
        "about": "",
        "source": "",
        "licence": "",
        "knobs": {"per_device_train_batch_size": list(BATCHES), "gradient_accumulation_steps": list(STEPS)},
        "baseline": 0.5,
        "num_train": 1000,
        "num_eval": 1000,
        "memory_limit_mib": LIMIT_MIB,
        "gradients_mib": 20.0,
        "time_noise": 0.01,
        "job": {"model": "embedded", "dataset": "embedded"},
        "curves": curves,
        "rows": {key_of(row.parameters): row for row in rows},
    }
    return Table(**values | changes)


def test_the_true_front_is_worth_everything_and_no_claim_nothing():
    scorer = Scorer(table())
    assert scorer.selection_volume(scorer.front) == pytest.approx(1)
    assert scorer.hypervolume(scorer.front) == pytest.approx(1)
    assert scorer.selection_volume({}) == scorer.hypervolume({}) == 0


def test_a_claim_that_breaks_its_limit_or_takes_the_place_of_a_better_one_costs_its_user():
    scorer = Scorer(table())
    best = max(scorer.front, key=lambda key: scorer.front[key].learned)
    other = key_of({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1})
    true = scorer.front[best]
    fast = scorer.front | {best: Values(true.learned, true.train_time_s / 3, true.peak_memory_mib / 3)}
    assert scorer.selection_volume(fast) < 0.9
    # The hypervolume at the true values does not see it.
    assert scorer.hypervolume(fast) == pytest.approx(1)
    of_other = scorer.front[other]
    flattered = scorer.front | {other: Values(0.99, of_other.train_time_s, of_other.peak_memory_mib)}
    assert scorer.selection_volume(flattered) < 0.98
    assert scorer.hypervolume(flattered) == pytest.approx(1)


def test_the_last_claims_are_held_against_what_is_true():
    bench = Bench(table(), 0)
    right, slow, too_large = (
        key_of({"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1}) for batch in (4, 8, 32)
    )
    true = bench.table.truth
    bench.claim({right: Values(0.1, 1.0, 1.0)})
    bench.claim(
        {
            right: true[right],
            slow: replace(true[slow], learned=true[slow].learned - 0.02, train_time_s=true[slow].train_time_s * 1.1),
            too_large: Values(0.9, 1.0, 1.0),
        }
    )
    assert errors(bench.table, bench) == pytest.approx(np.array([[0.0, 0.0, 0.0], [0.02, 0.1, 0.0]]))
    assert errors(bench.table, Bench(table(), 0)).shape == (0, 3)


def test_what_runs_out_of_memory_is_worth_nothing_whatever_is_claimed():
    scorer = Scorer(table())
    too_large = key_of({"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1})
    assert too_large not in scorer.table.truth
    assert scorer.selection_volume({too_large: Values(0.99, 1.0, 1.0)}) == 0


def test_a_share_counts_once_it_is_held():
    curve = np.array([(1.0, 0.5), (2.0, 0.96), (3.0, 0.9), (4.0, 0.97)])
    assert held(curve, 0.95) == 4
    assert held(curve, 0.5) == 1
    assert held(curve, 0.98) == np.inf
    assert area(curve, 8.0) == pytest.approx((0.5 + 0.96 + 0.9 + 4 * 0.97) / 8)


def test_two_runs_see_other_seeds_and_other_times():
    parameters = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    answers = [Bench(table(), seed).train(parameters).values for seed in range(20)]
    assert len({answer.learned for answer in answers}) == 3
    assert len({answer.train_time_s for answer in answers}) == 20
    bench = Bench(table(), 0)
    assert len({bench.train(parameters, repeat=repeat).values.learned for repeat in range(3)}) == 3


def test_a_measurement_may_be_disturbed():
    parameters = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    times = [Bench(table(), seed, slow_share=0.5).probe(parameters).micro_step_s for seed in range(40)]
    assert 5 < sum(time > 0.13 * 1.15 for time in times) < 35


def test_what_is_asked_for_is_paid_for():
    bench = Bench(table(time_noise=0.0), 0)
    fits, not_ = ({"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1} for batch in (8, 32))
    bench.probe(fits)
    assert bench.spent_s == pytest.approx(1.0)
    bench.train(fits)
    assert bench.spent_s == pytest.approx(1.0 + 0.5 + 125 * 0.13 + 125 * 0.01 + 1.0)
    assert (bench.num_trainings, bench.num_samples) == (1, 1000)
    assert bench.train(not_).kind == "out_of_memory"
    assert bench.num_trainings == 1


@pytest.mark.parametrize("name", [name for name in METHODS if name != "decoupled"])
def test_a_plain_method_claims_what_it_has_measured(name):
    bench = Bench(table(), 0)
    METHODS[name](bench, 0, 300.0)
    spent_s, claims = bench.claims[-1]
    assert spent_s == bench.spent_s
    assert spent_s >= 300 or claims.keys() == bench.table.truth.keys()  # what is remembered costs nothing
    assert claims
    assert claims.keys() <= bench.table.truth.keys()
    assert bench.num_trainings >= len(claims)


def test_the_decoupled_search_learns_of_more_than_it_trains():
    bench = Bench(table(), 0)
    decoupled(bench, 0, 1000.0)
    _, claims = bench.claims[-1]
    assert bench.num_trainings < len(claims)
    assert claims.keys() <= bench.table.truth.keys()
    assert Scorer(bench.table).selection_volume(claims) > 0.9


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_is_whole(path):
    found = Table.load(path)
    assert found.licence
    assert found.source
    for row in found.rows.values():
        assert row.parameters.keys() == found.knobs.keys()
        assert all(row.parameters[name] in values for name, values in found.knobs.items())
        # Of a class no member of which fits nothing is known.
        curves = found.curves[row.learning_class] if found.fits(row) else ()
        assert all(len(curve) >= row.num_epochs for curve in curves)
    assert max(values.learned for values in found.truth.values()) > found.height(found.baseline)


def test_a_training_that_is_stopped_costs_its_epochs_and_its_start():
    longer = table()
    row = replace(next(iter(longer.rows.values())), num_epochs=3, micro_step_s=(0.05,))
    curves = {row.learning_class: [[0.6, 0.7, 0.75]]}
    held = replace(longer, curves=curves, rows={key_of(row.parameters): row}, time_noise=0.0)
    whole, stopped = Bench(held, 0), Bench(held, 0)
    trained = whole.train(row.parameters)
    answers = [answer for _, answer in zip(range(2), stopped.epochs(row.parameters), strict=False)]
    assert [answer.curve for answer in answers] == [[0.6], [0.6, 0.7]]
    assert [answer.values.learned for answer in answers] == [0.6, 0.7]
    assert answers[-1].values.train_time_s == trained.values.train_time_s
    assert stopped.spent_s - row.start_s == pytest.approx((whole.spent_s - row.start_s) * 2 / 3)
    assert list(Bench(held, 0).epochs(row.parameters))[-1].curve == trained.curve


def test_a_loss_counts_with_its_sign_turned():
    falling = table(
        learned="eval_loss",
        baseline=2.0,
        curves={size: [[2.0 - curve[0]] for curve in curves] for size, curves in table().curves.items()},
    )
    bench, answer = (
        Bench(falling, 0),
        Bench(falling, 0).train({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}),
    )
    assert answer.values.learned == -answer.curve[-1]
    decoupled(bench, 0, 1e9)
    scorer = Scorer(falling)
    assert scorer.selection_volume(bench.claims[-1][1]) > 0.9
    assert scorer.selection_volume(scorer.front) == pytest.approx(1)
