"""The terms that all trials of a study share, in one object: from the objective to the samplers, everyone is given the same."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from tradeoff.objectives.job.arguments import job_of, name_of_data
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.knowledge.lines import Lines
from tradeoff.objectives.measurements.goals import cost_names, learned_names
from tradeoff.searchspace import (
    ACCUMULATION,
    MICRO_BATCH,
    LearningClass,
    MemoryClass,
    Reuse,
    SearchSpace,
    SpeedClass,
    TrialParameters,
)

# The most members of a learning class that are looked at where not every configuration can be.
MAX_MEMBERS = 128


@dataclass(frozen=True, kw_only=True)
class StudySetup:
    """The space, job, objectives and limits of a study, as they hold on this machine.

    Attributes:
        space: Where configurations come from, without what the device lacks.
        job: What is trained.
        objectives: The names of the study's objectives, in its order.
        num_train: Training samples per epoch.
        num_eval: Evaluation samples, which tell how much an accuracy varies by chance; None if they are not known.
        num_packed: Sequences to train on per epoch where texts are packed, by the name of their data.
        num_devices: Devices that share an optimizer step.
        memory_limit_mib: The most memory that a configuration may need: the study's limit, or all that the device has.
        enforces_memory_limit: True if a trial is held to the limit; where it is the device's own memory, the device does that.
        reuse: How far one training's accuracy speaks for other configurations.
        uses_memory_estimates: True if memory that was estimated before anything ran is used once the study holds it.
        publishes_at_end: True if the search publishes each configuration once, when it ends: until then no trial is complete to
            Optuna, whatever it has measured.
    """

    space: SearchSpace
    job: TrainingSettings
    objectives: tuple[str, ...]
    num_train: int
    num_eval: int | None = None
    num_packed: Mapping[str, int] = field(default_factory=dict)
    num_devices: int = 1
    memory_limit_mib: float = math.inf
    enforces_memory_limit: bool = False
    reuse: Reuse = Reuse.EFFECTIVE_BATCH
    uses_memory_estimates: bool = True
    publishes_at_end: bool = False

    @cached_property
    def learned(self) -> tuple[str, ...]:
        """The objectives that only a training measures."""
        return learned_names(self.objectives)

    @cached_property
    def costs(self) -> tuple[str, ...]:
        """The objectives that a probe measures, or a model of probes predicts."""
        return cost_names(self.objectives)

    def num_rows(self, parameters: TrialParameters) -> int:
        """Return the sequences that a configuration trains on per epoch: packed, several texts are one."""
        job = job_of(self.job, parameters)
        if not isinstance(job, CausalLMJob) or not job.packing:
            return self.num_train
        return self.num_packed.get(name_of_data(job), self.num_train)

    def class_of(self, parameters: TrialParameters) -> LearningClass:
        """Return the learning class of a configuration, as widely as this study shares accuracy."""
        return parameters.learning_class(self.num_devices, self.reuse)

    @cached_property
    def lines(self) -> Lines:
        """The lines of micro-batches that a survey can probe."""
        return Lines(self.space)

    @cached_property
    def memory_classes(self) -> Sequence[MemoryClass]:
        """The memory classes of the space."""
        return tuple(dict.fromkeys(structure.memory_class() for structure in self.space.structures))

    @cached_property
    def speed_classes(self) -> Sequence[SpeedClass]:
        """The speed classes of the space."""
        return tuple(dict.fromkeys(structure.speed_class() for structure in self.space.structures))

    @cached_property
    def structures_of(self) -> Mapping[LearningClass, list[TrialParameters]]:
        """The structures of the space by their learning class, which lacks the parameters that change learning only."""
        found: dict[LearningClass, list[TrialParameters]] = {}
        for structure in self.space.structures:
            found.setdefault(self.class_of(structure), []).append(structure)
        return found

    def members_of(self, parameters: TrialParameters) -> Sequence[TrialParameters]:
        """Return the structures that share what a configuration learns, drawn or not; of very many, a part."""
        structure = parameters.structure
        key = self.class_of(structure)
        if not self.space.is_drawn:
            return self.structures_of.get(key, ())
        if key not in self._members:
            self._members[key] = tuple(islice(dict.fromkeys(self._alike(structure, key)), MAX_MEMBERS))
        return self._members[key]

    @cached_property
    def _members(self) -> dict[LearningClass, tuple[TrialParameters, ...]]:
        """The cache of `members_of`."""
        return {}

    def _alike(self, structure: TrialParameters, key: LearningClass) -> Iterator[TrialParameters]:
        """Yield a structure, and others of its learning class."""
        yield structure
        domains, split = self.space.domains, (MICRO_BATCH, ACCUMULATION)
        free = {
            name: [value for value in values if name not in key or self.space.knobs[name].same.get(value, value) == key[name]]
            for name, domain in domains.items()
            if (values := domain.values()) is not None and name not in (*split, *self.space.learning_only)
        }
        of_split = [domains[name].values() if name in domains else None for name in split]
        batches, steps = (values or (structure[name],) for name, values in zip(split, of_split, strict=True))
        size = structure.effective_batch_size()
        splits = [{MICRO_BATCH: batch, ACCUMULATION: num} for batch in batches for num in steps if batch * num == size]
        # A knob that is not set here has no value that its class would allow.
        names = [name for name, values in free.items() if values]
        for of_batch, *values in itertools.product(splits, *(free[name] for name in names)):
            other = self.space.parameters({**structure, **dict(zip(names, values, strict=True)), **of_batch})
            if self.class_of(other) == key and self.space.violation(other) is None:
                yield other
