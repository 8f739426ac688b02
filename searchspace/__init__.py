"""The search space: the knobs, the parameters of a trial, their domains, and the rules they must meet.

Nothing here imports torch or transformers, so a study can be read and listed without them.
"""

from tradeoff.searchspace.choices import Precision
from tradeoff.searchspace.constraints import EffectiveBatchSizeRange, Violation
from tradeoff.searchspace.domains import Categorical, Domain, FloatRange, IntRange, PowersOfTwo
from tradeoff.searchspace.knob import Knob, Learning
from tradeoff.searchspace.knobs import ACCUMULATION, KNOBS, MICRO_BATCH, Knobs
from tradeoff.searchspace.parameters import LearningClass, MemoryClass, Reuse, SpeedClass, TrialParameters, Values
from tradeoff.searchspace.space import SearchSpace

__all__ = [
    "ACCUMULATION",
    "KNOBS",
    "MICRO_BATCH",
    "Categorical",
    "Domain",
    "EffectiveBatchSizeRange",
    "FloatRange",
    "IntRange",
    "Knob",
    "Knobs",
    "Learning",
    "LearningClass",
    "MemoryClass",
    "PowersOfTwo",
    "Precision",
    "Reuse",
    "SearchSpace",
    "SpeedClass",
    "TrialParameters",
    "Values",
    "Violation",
]
