from dataclasses import replace

import pytest
from stored_studies import completed, make_study, out_of_memory, params, record

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.criteria import Limit, Within, numeric_value, parse_weights
from tradeoff.studies.results.results import BASELINES, StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose, near_the_best, qualifying


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return read_results(make_study(None))


def chosen(results: StudyResults, **asked: object) -> int:
    return choose(results, Selection(**asked)).record.number  # type: ignore[arg-type]


def limits(*texts: str) -> tuple[Limit, ...]:
    return tuple(Limit.parse(text) for text in texts)


def qualifying_front(results: StudyResults, selection: Selection) -> list[TrialRecord]:
    return near_the_best(qualifying(results, selection).records, selection)


def within(*texts: str) -> tuple[Within, ...]:
    return tuple(Within.parse(text) for text in texts)


def test_the_whole_front_qualifies_when_nothing_is_asked(results: StudyResults) -> None:
    assert [record.number for record in qualifying_front(results, Selection())] == [0, 1, 2, 4]


def test_the_knee_is_taken_by_default(results: StudyResults) -> None:
    # Scaled accuracy + time + memory: 0 + 0.75 + 0.27, 0.05 + 0.25 + 0.33, 0.5 + 0 + 1, 1 + 1 + 0.
    choice = choose(results, Selection())
    assert (choice.record.number, choice.why) == (1, "the knee of the front")


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({"maximize": "accuracy"}, 0),
        ({"minimize": "train_time_s"}, 2),
        ({"minimize": "peak_memory_mib"}, 4),
        ({"maximize": "samples_per_s"}, 2),
        ({"minimize": "effective_batch_size"}, 0),
    ],
)
def test_the_largest_or_smallest_of_a_figure_is_taken_from_the_front(
    results: StudyResults, asked: dict[str, str], number: int
) -> None:
    assert chosen(results, **asked) == number


def test_what_a_choice_passes_over_is_named(results: StudyResults) -> None:
    records = (record(0, (0.50, 30.0, 900.0)), record(1, (0.42, 10.0, 900.0)))
    choice = choose(replace(results, records=records, baselines={"accuracy": 0.42}), Selection(minimize="train_time_s"))
    assert choice.record.number == 0
    assert choice.why == "the smallest train_time_s on the front, but for trial 1 (no better than a constant answer)"


def test_an_objective_may_be_called_as_its_column_is_headed() -> None:
    asked = Selection(limits=limits("f1>=0.5", "train_time_s<=9"), within=within("f1:10%"), minimize="f1", weights={}).of(
        ("eval_f1", "train_time_s")
    )
    assert [str(limit) for limit in asked.limits] == ["eval_f1>=0.5", "train_time_s<=9"]
    assert (asked.within[0].objective, asked.minimize, asked.maximize) == ("eval_f1", "eval_f1", None)
    assert Selection(weights={"f1": 2.0, "accuracy": 1.0}).of(("eval_f1", "accuracy")).weights == {
        "eval_f1": 2.0,
        "accuracy": 1.0,
    }


def test_a_limit_leaves_what_keeps_it(results: StudyResults) -> None:
    front = qualifying_front(results, Selection(limits=limits("peak_memory_mib<=1000")))
    assert [record.number for record in front] == [0, 1, 4]
    assert chosen(results, limits=limits("peak_memory_mib<1000"), minimize="train_time_s") == 0


def test_a_limit_brings_back_what_only_ruled_out_trials_beat(results: StudyResults) -> None:
    # Trial 3 is dominated by trial 1 alone, which takes 20 s exactly.
    front = qualifying_front(results, Selection(limits=limits("train_time_s>20", "train_time_s<=40")))
    assert [record.number for record in front] == [0, 3]


def test_within_keeps_what_is_close_to_the_best_of_the_front(results: StudyResults) -> None:
    front = qualifying_front(results, Selection(within=within("accuracy:0.01")))
    assert [record.number for record in front] == [0, 1]


def test_a_distance_equal_to_the_tolerance_is_within_it() -> None:
    records = [record(0, (0.8,)), record(1, (0.795,)), record(2, (0.7949,))]
    assert [kept.number for kept in Within.parse("accuracy:0.005").keep(records)] == [0, 1]


def test_within_a_share_of_the_best_is_relative_to_it(results: StudyResults) -> None:
    # The fastest takes 10 s, so 100% more is 20 s.
    front = qualifying_front(results, Selection(within=within("train_time_s:100%")))
    assert [record.number for record in front] == [1, 2]


def test_within_alone_takes_the_fastest_of_those_close_to_the_best_accuracy(results: StudyResults) -> None:
    choice = choose(results, Selection(within=within("accuracy:0.01")))
    assert choice.record.number == 1
    assert choice.why == "the best training time with accuracy within 0.01 of the best"


def test_within_time_takes_the_best_accuracy_of_those_fast_enough(results: StudyResults) -> None:
    assert chosen(results, within=within("train_time_s:5")) == 2
    assert chosen(results, within=within("train_time_s:30")) == 0


def test_several_distances_must_hold_at_once(results: StudyResults) -> None:
    assert chosen(results, within=within("accuracy:0.01", "train_time_s:15")) == 1
    with pytest.raises(
        TradeoffError, match=r"no configuration has accuracy within 0\.001 and train_time_s within 1 of the best at"
    ):
        choose(results, Selection(within=within("accuracy:0.001", "train_time_s:1")))


def test_weights_move_the_knee(results: StudyResults) -> None:
    # Memory alone separates them once it weighs 100: 26.7, 33.3, 100, 0 and what the other two add, 2 at most.
    assert chosen(results, weights={"peak_memory_mib": 100.0}) == 4


def test_a_trial_asked_for_is_taken_also_off_the_front_and_that_is_said(results: StudyResults) -> None:
    choice = choose(results, Selection(trial=3))
    assert choice.record.number == 3
    assert choice.why == "asked for by number; trial 1 is at least as good in every objective"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"trial": 9}, "the study 'stars' has no trial 9 .6 trials"),
        ({"trial": 5}, r"a chosen trial must have completed, and trial 5 is out of memory \(out of memory in the probe\)"),
        ({"trial": 2, "limits": limits("peak_memory_mib<=1500")}, "trial 2 does not satisfy peak_memory_mib<=1500: .* is 2000"),
        (
            {"maximize": "speed"},
            "speed is not a measurement of any trial; choose one of accuracy, train_time_s, peak_memory_mib, .*samples_per_s",
        ),
        ({"within": within("samples_per_s:1")}, "samples_per_s is not an objective of the study 'stars'"),
        ({"weights": {"loss": 1.0}}, "loss is not an objective of the study 'stars'"),
    ],
)
def test_what_can_not_be_chosen_is_said_in_a_sentence(results: StudyResults, asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(TradeoffError, match=sentence):
        choose(results, Selection(**asked))  # type: ignore[arg-type]


def test_a_limit_that_nothing_keeps_is_named_with_the_nearest_configuration(results: StudyResults) -> None:
    with pytest.raises(TradeoffError) as caught:
        choose(results, Selection(limits=limits("accuracy>=0.5", "peak_memory_mib<=400")))
    assert (
        str(caught.value)
        == "no configuration satisfies peak_memory_mib<=400; the nearest is trial 4, whose peak_memory_mib is 500"
    )


def test_limits_that_only_together_exclude_all_are_named_together(results: StudyResults) -> None:
    with pytest.raises(TradeoffError) as caught:
        choose(results, Selection(limits=limits("accuracy>=0.8", "train_time_s<=30")))
    # Trial 1 misses the accuracy by 0.01 / 0.8; trial 0 misses the time by 10 / 30.
    assert str(caught.value) == (
        "no configuration satisfies accuracy>=0.8 and train_time_s<=30 at the same time;"
        " the nearest is trial 1, whose accuracy is 0.79"
    )


def test_a_study_with_nothing_finished_has_an_empty_front_and_no_choice() -> None:
    empty = read_results(make_study(None, (out_of_memory(params(64)),)))
    assert qualifying_front(empty, Selection(limits=limits("peak_memory_mib<=1"))) == []
    with pytest.raises(
        TradeoffError, match=r"needs a completed trial, and the study 'stars' has none \(1 trial: 1 out of memory\)"
    ):
        choose(empty, Selection())


def test_two_ways_to_choose_exclude_each_other() -> None:
    with pytest.raises(TradeoffError, match="only one way to choose can be given, got --trial and --knee"):
        Selection(trial=1, knee=True)
    with pytest.raises(TradeoffError, match="--within goes with a choice from the front"):
        Selection(trial=1, within=within("accuracy:0.1"))


@pytest.mark.parametrize("text", ["peak_memory_mib", "peak_memory_mib<=", "<=7", "peak_memory_mib=<7", "accuracy>=high", ""])
def test_a_limit_that_can_not_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TradeoffError, match="a limit must be written like"):
        Limit.parse(text)


@pytest.mark.parametrize("text", ["accuracy", "accuracy:", "accuracy:-1", "accuracy=0.1", ":0.1"])
def test_a_distance_that_can_not_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TradeoffError, match=r"must be written like accuracy:0\.005"):
        Within.parse(text)


def test_a_limit_reads_with_spaces_and_exponents() -> None:
    assert Limit.parse(" learning_rate >= 1e-4 ") == Limit(name="learning_rate", comparison=">=", bound=1e-4)


def test_weights_are_read_and_negative_ones_refused() -> None:
    assert parse_weights(["accuracy:2", "train_time_s:0.5"]) == {"accuracy": 2.0, "train_time_s": 0.5}
    with pytest.raises(TradeoffError, match="a weight must be written like accuracy:2 and be at least 0, got 'accuracy:-2'"):
        parse_weights(["accuracy:-2"])


def test_the_effective_batch_is_a_figure_and_a_switch_is_none() -> None:
    trial = read_results(make_study(None, (completed((0.5, 1.0, 1.0), params(4, 2)),))).records[0]
    assert numeric_value(trial, "effective_batch_size") == 8
    assert numeric_value(trial, "gradient_checkpointing") is None
    assert numeric_value(trial, "precision") is None


def test_a_marked_row_is_chosen_by_its_number_alone_and_the_reason_says_so() -> None:
    study = make_study(None)
    study.set_user_attr(BASELINES, {"accuracy": 0.75})
    results = read_results(study)
    assert choose(results, Selection(minimize="train_time_s")).record.number == 1  # trial 2 is faster, at an accuracy of 0.70
    asked = choose(results, Selection(trial=2))
    assert asked.why == "asked for by number; no better than a constant answer"
    study.set_user_attr(BASELINES, {"accuracy": 0.9})
    with pytest.raises(TradeoffError, match="clearly better than a constant answer"):
        choose(read_results(study), Selection())
