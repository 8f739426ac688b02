"""What may be tried: the parameters of a trial, their domains, and the rules they must meet.

Nothing here imports torch or transformers, so a study can be read and listed without them.
"""

from tradeoff.searchspace.choices import CHOICES, OPTIMIZERS
from tradeoff.searchspace.constraints import EffectiveBatchSizeRange, Violation
from tradeoff.searchspace.domains import Categorical, Domain, FloatRange, IntRange, PowersOfTwo
from tradeoff.searchspace.parameters import LearningClass, MemoryClass, Precision, Reuse, SpeedClass, TrialParameters
from tradeoff.searchspace.space import SearchSpace

__all__ = [
    "CHOICES",
    "OPTIMIZERS",
    "Categorical",
    "Domain",
    "EffectiveBatchSizeRange",
    "FloatRange",
    "IntRange",
    "LearningClass",
    "MemoryClass",
    "PowersOfTwo",
    "Precision",
    "Reuse",
    "SearchSpace",
    "SpeedClass",
    "TrialParameters",
    "Violation",
]
