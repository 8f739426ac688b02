"""Memory estimates, and how measured peaks correct them."""

import json

import pytest
from simulated_runner import setup

from tradeoff.objectives.knowledge.derivation import derived_attributes, predicted_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.memory_estimator.estimates import CorrectedEstimates, MemoryEstimate, MemoryEstimates
from tradeoff.searchspace import TrialParameters


def configuration(batch, accumulation=1, *, precision="fp32"):
    return TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, precision=precision)


def estimated(peaks, *, bound=0.9):
    """These peaks by configuration, each with a bound that is a share of it."""
    return MemoryEstimates.of(
        (parameters, MemoryEstimate(peak_memory_mib=peak, lower_bound_mib=bound * peak)) for parameters, peak in peaks.items()
    )


ESTIMATES = estimated(
    {configuration(2): 100.0, configuration(4): 200.0, configuration(8): 400.0, configuration(8, precision="fp16"): 250.0}
    | {configuration(2, 2): 150.0, configuration(4, 2): 250.0, configuration(8, 2): 450.0}
)


def corrected(measured):
    points = {}
    for parameters, peak in measured.items():
        points.setdefault(parameters.memory_class(), {})[float(parameters.per_device_train_batch_size)] = peak
    return CorrectedEstimates(estimates=ESTIMATES, points=points)


def peak_of(one, parameters):
    return one.peak_memory_mib(parameters.memory_class(), float(parameters.per_device_train_batch_size))


def test_before_anything_is_measured_the_estimate_stands():
    assert peak_of(corrected({}), configuration(4)) == (200.0, "estimate")


def test_one_peak_gives_an_offset():
    assert peak_of(corrected({configuration(2): 130.0}), configuration(8)) == (430.0, "estimate")


def test_two_peaks_of_a_line_tell_the_scale_too():
    one = corrected({configuration(2): 130.0, configuration(4): 240.0})
    assert peak_of(one, configuration(8)) == (pytest.approx(460.0), "model")


def test_the_line_that_differs_in_accumulation_alone_stands_for_its_neighbour():
    one = corrected({configuration(2): 130.0, configuration(4): 240.0})
    # 450 is 250 above 200, at a scale of 1.1.
    assert peak_of(one, configuration(8, 2)) == (pytest.approx(240 + 1.1 * 250), "model")


def test_a_peak_of_its_own_moves_the_neighbours_line():
    one = corrected({configuration(2): 130.0, configuration(4): 240.0, configuration(2, 2): 195.0})
    # The neighbour's line says 185 there: this one is 10 higher.
    assert peak_of(one, configuration(8, 2)) == (pytest.approx(240 + 1.1 * 250 + 10), "model")


def test_what_another_precision_lacks_is_taken_until_its_own_is_known():
    assert peak_of(corrected({configuration(2): 130.0}), configuration(8, precision="fp16")) == (280.0, "estimate")


def test_two_peaks_that_lie_close_together_do_not_lead_astray():
    near = estimated({configuration(2): 100.0, configuration(4): 101.0, configuration(8): 400.0})
    points = {configuration(2).memory_class(): {2.0: 110.0, 4.0: 116.0}}
    one = CorrectedEstimates(estimates=near, points=points)
    # Six measured MiB for each estimated one would make 1,910.
    assert peak_of(one, configuration(8)) == (pytest.approx(116 + 299), "model")


def test_the_scale_of_other_lines_counts_where_memory_grows_faster_than_estimated_and_not_where_it_grows_more_slowly():
    for grown, expected in ((240.0, 1.1), (220.0, 1.0)):
        one = corrected({configuration(2): 130.0, configuration(4): grown, configuration(8, precision="fp16"): 260.0})
        wide = estimated({configuration(8, precision="fp16"): 250.0, configuration(16, precision="fp16"): 450.0})
        both = MemoryEstimates(curves={**ESTIMATES.curves, **wide.curves})
        one = CorrectedEstimates(estimates=both, points=one.points)
        assert peak_of(one, configuration(16, precision="fp16")) == (pytest.approx(260 + expected * 200), "estimate")


def test_between_estimated_batches_the_peak_is_on_their_line_and_the_bound_is_the_smaller_ones():
    estimate = ESTIMATES.at(configuration(6).memory_class(), 6)
    assert estimate == MemoryEstimate(peak_memory_mib=300.0, lower_bound_mib=180.0)


@pytest.mark.parametrize("parameters", [configuration(1), configuration(16), configuration(4, precision="bf16")])
def test_what_was_not_estimated_is_not_known(parameters):
    assert peak_of(corrected({configuration(2): 130.0}), parameters) is None


def test_a_bound_that_a_peak_has_shown_to_be_too_high_is_lowered():
    memory_class = configuration(8).memory_class()
    assert corrected({}).lower_bound_mib(memory_class, 8) == 360.0
    # A bound of 90, and 81 measured: every bound is a tenth too high.
    assert corrected({configuration(2): 81.0}).lower_bound_mib(memory_class, 8) == pytest.approx(324.0)
    assert corrected({configuration(2): 130.0}).lower_bound_mib(memory_class, 8) == 360.0


def test_estimates_survive_being_stored_as_json():
    assert MemoryEstimates.from_dict(json.loads(json.dumps(ESTIMATES.as_dict()))) == ESTIMATES


def known(*measured, estimates=ESTIMATES):
    records = [
        TrialRecord(
            number=number,
            outcome="probed",
            params=parameters.as_dict(),
            attributes={
                "peak_memory_mib": peak,
                "probe": {"micro_step_time_s": 0.1, "optimizer_step_time_s": 0.02, "gradients_mib": 50.0},
            }
            | predicted,
        )
        for number, (parameters, peak, predicted) in enumerate(measured)
    ]
    return Knowledge.of(records, setup(), memory_estimates=estimates)


def test_a_trial_stores_the_estimate_its_correction_and_where_the_prediction_is_from():
    attributes = predicted_attributes(
        configuration(8), {"outcome": "probed", "peak_memory_mib": 440.0}, known((configuration(2), 130.0, {}))
    )
    assert attributes == {
        "predicted_peak_memory_mib": 430.0,
        "predicted_peak_memory_mib_source": "estimate",
        "estimated_peak_memory_mib": 400.0,
    }


def test_a_prediction_from_measured_peaks_alone_says_so():
    two = (configuration(2), 130.0, {}), (configuration(4), 230.0, {})
    attributes = predicted_attributes(
        configuration(8), {"outcome": "probed", "peak_memory_mib": 440.0}, known(*two, estimates=None)
    )
    assert attributes == {"predicted_peak_memory_mib": 430.0, "predicted_peak_memory_mib_source": "model"}


def test_a_trial_that_ran_out_of_memory_has_its_prediction_too():
    attributes = predicted_attributes(configuration(8), {"outcome": "out_of_memory"}, known((configuration(2), 130.0, {})))
    assert attributes["predicted_peak_memory_mib"] == 430.0
    assert predicted_attributes(configuration(8), {"outcome": "out_of_memory"}, known(estimates=None)) == {}


def test_a_derived_trial_has_the_prediction_of_the_probe_that_measured_its_memory():
    predicted = {"predicted_peak_memory_mib": 125.0, "predicted_peak_memory_mib_source": "estimate"}
    knowledge = known((configuration(2), 130.0, predicted), (configuration(4), 230.0, {}))
    training = TrialRecord(
        number=5, outcome="completed", params=configuration(4).as_dict(), attributes={"accuracy": 0.6, "train_time_s": 9.0}
    )
    settling = Observation(record=training, parameters=configuration(4))
    assert derived_attributes(configuration(2), settling, knowledge).items() >= predicted.items()
    assert "predicted_peak_memory_mib" not in derived_attributes(configuration(8), settling, knowledge)
