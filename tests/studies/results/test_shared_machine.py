"""What is said of times that were measured while the machine did something else."""

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.shared_machine import busy_lines


def record(number, **parts):
    return TrialRecord(number=number, outcome="probed", params={}, attributes=parts)


def test_a_load_beyond_the_processors_is_said_with_how_often_and_how_much():
    records = [
        record(0, probe={"busy_share": 0.04}),
        record(1, probe={"busy_share": 0.0}, training={"busy_share": 0.52}),
        record(2, probe={"busy_share": 0.31}),
        record(3),
    ]
    (line,) = busy_lines(records)
    assert line.startswith("the load exceeded the processors during 2 of 3 trials: other processes took up to 52% of them")


def test_another_process_on_the_gpu_is_said():
    records = [record(0, probe={"busy_share": 0.0, "num_other_processes": 1}), record(1, probe={"num_other_processes": 0})]
    assert busy_lines(records) == [
        "other processes were on the GPU during 1 of 2 trials, so times may be those of a shared GPU"
    ]


def test_nothing_is_said_of_a_quiet_machine_or_one_that_reports_nothing():
    assert busy_lines([]) == []
    assert busy_lines([record(0, probe={"busy_share": 0.02, "num_other_processes": 0}), record(1, probe={})]) == []
    assert busy_lines([record(0, probe={"busy_share": None, "num_other_processes": None})]) == []
