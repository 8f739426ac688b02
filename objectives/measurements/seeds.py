"""Several seeds of one learning class: its trials hold the mean and the standard deviation of the learned values.

One training gives the values of one seed. A repeat trains the same configuration with the next seed, and from then on the mean
is published for the class: the influence of the seed averages out, and the front gets error bars.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import learned_value
from tradeoff.objectives.measurements.records import TrialRecord

# The seed of a repeat; a trial without it was trained with the job's seed.
SEED = "seed"
# The number of seeds over which a class's values are averaged.
NUM_SEEDS = "num_seeds"


def spread_name(objective: str) -> str:
    """Return the attribute that holds the standard deviation of a learned objective over seeds."""
    return f"{objective}_std"


def last_values(attributes: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return the learned values at the last evaluation of a trial's own training, whatever the trial stores for its class."""
    curve = attributes["training"]["curve"]
    return {name: value for name in names if curve and (value := learned_value(curve[-1], name)) is not None}


def averaged_attributes(
    own: Mapping[str, Any], earlier: Sequence[TrialRecord], names: Sequence[str], *, number: int, seed: int
) -> dict[str, Any]:
    """Return what a repeat stores for its learned objectives: means over all seeds, standard deviations, and their sources.

    Args:
        own: The attributes of the repeat, with its training.
        earlier: The trials that trained the same configuration with other seeds, in order; at least one.
        names: The learned objectives.
        number: The repeat's number.
        seed: The repeat's seed.
    """
    values = [last_values(attributes, names) for attributes in (*(record.attributes for record in earlier), own)]
    attributes: dict[str, Any] = {SEED: seed, NUM_SEEDS: len(values)}
    trials = [*(str(record.number) for record in earlier), str(number)]
    for name in names:
        known = [value[name] for value in values if name in value]
        attributes |= {
            name: statistics.fmean(known),
            spread_name(name): statistics.stdev(known),
            f"{name}_source": f"mean of trials {', '.join(trials[:-1])} and {trials[-1]}",
        }
    return attributes
