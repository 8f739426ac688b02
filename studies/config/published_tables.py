"""The published tables that `tradeoff sweep` reproduces: their grids as studies, and their figures as data.

The figures are those of a university lecture on optimising the training of language models: BERT-base-uncased, sequence length
512, fp32, AdamW, a GPU with 7,611 MiB, with the transformers of 2023 and its eager attention. "Memory occupied" is what NVML
reports for the GPU, 417 MiB of CUDA context included; "utilisation" is the share of the GPU's memory that is occupied.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tradeoff.studies.config.presets import dummy_bert, embedded, yelp_bert
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import Limits, StudyConfig

CARD_MEMORY_MIB = 7611.0
SOURCE = "BERT-base-uncased, sequence 512, fp32, eager attention (transformers of 2023), a GPU with 7,611 MiB"
# Where the table varies the batch: the embedded model is so small that its batches must be large to differ. The last one
# exceeds the embedded preset's memory limit, as the lecture's last one did not fit its GPU.
_EMBEDDED_BATCHES = [32, 64, 128, 256, 384]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A line of a published table; None where the table has no such column.

    Attributes:
        out_of_memory: The line is a configuration that did not fit.
    """

    train_time_s: float | None = None
    samples_per_s: float | None = None
    peak_memory_mib: float | None = None
    memory_utilization_percent: float | None = None
    train_loss: float | None = None
    accuracy: float | None = None
    out_of_memory: bool = False


# By micro-batch and accumulation steps.
PublishedTable = Mapping[tuple[int, int], Published]


def _row(time_s: float, speed: float, memory_mib: float, share: float | None = None, loss: float | None = None) -> Published:
    return Published(
        train_time_s=time_s,
        samples_per_s=speed,
        peak_memory_mib=memory_mib,
        memory_utilization_percent=share,
        train_loss=loss,
    )


def _yelp_row(time_s: float, speed: float, memory_mib: float, accuracy: float) -> Published:
    return Published(train_time_s=time_s, samples_per_s=speed, peak_memory_mib=memory_mib, accuracy=accuracy)


# Random data, 512 samples, 1 epoch.
BATCH_SIZE: PublishedTable = {
    (1, 1): _row(109.62, 4.67, 3281, 43.1),
    (2, 1): _row(85.82, 5.97, 3391, 44.6),
    (4, 1): _row(72.18, 7.09, 4613, 60.6),
    (8, 1): _row(66.70, 7.68, 7069, 92.9),
    (9, 1): Published(out_of_memory=True),
}
# Random data, batch 8.
ACCUMULATION: PublishedTable = {
    (8, 1): _row(66.06, 7.75, 7069, 92.9, 0.029),
    (8, 2): _row(63.96, 8.01, 7509, 98.7, 0.070),
    (8, 4): _row(62.81, 8.15, 7509, 98.7, 0.163),
    (8, 8): _row(62.65, 8.17, 7509, 98.7, 0.169),
    (8, 16): _row(62.42, 8.20, 7509, 98.7, 0.447),
    (8, 32): _row(62.44, 8.20, 7509, 98.7, 0.445),
    (8, 128): _row(62.20, 8.23, 6637, 87.2, 0.435),
    (8, 1024): _row(61.78, 8.29, 6637, 87.2, 0.463),
    (8, 4096): _row(62.16, 8.24, 6637, 87.2, 0.014),
}
# Yelp reviews: 1,000 to train on and 1,000 to evaluate on, shuffled with seed 42, padded to 512; 3 epochs, batch 8.
YELP: PublishedTable = {
    (8, 1): _yelp_row(538.37, 5.56, 7069, 0.621),
    (8, 8): _yelp_row(501.89, 5.98, 7509, 0.554),
    (8, 32): _yelp_row(429.70, 6.98, 7509, 0.347),
    (8, 1024): _yelp_row(513.17, 5.85, 7509, 0.222),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LectureTable:
    """A table to reproduce.

    Attributes:
        data: What is trained on.
        varied: What its lines differ in.
        study: The grid on the lecture's job, with the memory of the lecture's GPU as its limit.
        published: The published figures; empty where there are none.
    """

    data: str
    varied: str
    study: Callable[[], StudyConfig]
    published: PublishedTable

    def title(self, *, embedded: bool) -> str:
        """Return the table's title."""
        return f"{'Generated reviews' if embedded else self.data}, by {self.varied}"

    def embedded_study(self) -> StudyConfig:
        """Return the same grid on the embedded job, which needs neither a GPU nor a network.

        The memory limit, and the batch sizes if they are varied, are those of the small model.
        """
        study, small = self.study(), embedded()
        data = study.plain()
        data["name"] = f"{study.name}-embedded"
        data["job"] = small.job.model_copy(update={"epochs": study.job.epochs}).model_dump(mode="json")
        if len(data["space"]["per_device_train_batch_size"]) > 1:
            data["space"]["per_device_train_batch_size"] = _EMBEDDED_BATCHES
        data["limits"] = small.limits.model_dump(mode="json")
        data["objectives"] = list(small.objectives)
        return StudyConfig.model_validate(data)


def _grid(
    base: StudyConfig, name: str, batches: list[int], accumulation: list[int], *, checkpointing: tuple[bool, ...] = (False,)
) -> StudyConfig:
    return StudyConfig(
        name=name,
        job=base.job,
        space=SpaceConfig(
            per_device_train_batch_size=batches,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=list(checkpointing),
            precision=["fp32"],
        ),
        limits=Limits(peak_memory_mib=CARD_MEMORY_MIB),
        objectives=base.objectives,
        sampler="grid",
    )


def _batch_size() -> StudyConfig:
    return _grid(dummy_bert(), "lecture-batch-size", [1, 2, 4, 8, 9], [1])


def _accumulation() -> StudyConfig:
    return _grid(dummy_bert(), "lecture-accumulation", [8], [1, 2, 4, 8, 16, 32, 128, 1024, 4096])


def _yelp() -> StudyConfig:
    return _grid(yelp_bert(), "lecture-yelp", [8], [1, 8, 32, 1024])


def _checkpointing() -> StudyConfig:
    return _grid(dummy_bert(), "lecture-checkpointing", [1, 2, 4, 8, 16], [1], checkpointing=(False, True))


TABLES: dict[str, LectureTable] = {
    "lecture-batch-size": LectureTable(data="Random tokens", varied="batch size", study=_batch_size, published=BATCH_SIZE),
    "lecture-accumulation": LectureTable(
        data="Random tokens", varied="accumulation steps", study=_accumulation, published=ACCUMULATION
    ),
    "lecture-yelp": LectureTable(data="Yelp reviews", varied="accumulation steps", study=_yelp, published=YELP),
    "lecture-checkpointing": LectureTable(
        data="Random tokens", varied="batch size and gradient checkpointing", study=_checkpointing, published={}
    ),
}
