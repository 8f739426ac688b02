"""Studies made up for exports: one small job, trials without any training."""

from stored_studies import OBJECTIVES

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.results import StudyResults

TINY = TextClassificationJob(
    train_samples=64, eval_samples=32, max_length=32, epochs=1, learning_rate=1e-3, eval_batch_size=32, seed=3
)  # fmt: skip


def made_up(*records: TrialRecord, job: BuiltInJob = TINY, kind: str = "cpu") -> StudyResults:
    return StudyResults(
        name="stars",
        objectives=OBJECTIVES,
        records=records,
        config={"job": job.model_dump(mode="json")},
        device={"kind": kind, "name": "Test device"},
        versions={},
        tradeoff_version="0.1.0",
        storage="memory",
    )
