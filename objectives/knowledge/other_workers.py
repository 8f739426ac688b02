"""Look at the running trials of other workers, so that no two pay for the same out-of-memory or learning class."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.searchspace import TrialParameters

# The plan of a trial, stored by a sampler that plans: its `params` and its `stages`, of "probe" and "train".
TRIAL_PLAN = "tradeoff:plan"
# Stored by a trial without a plan: True while it is trained, `PROBED_ALONE` if its class is settled and only its costs are not.
TRAINS_ATTRIBUTE = "tradeoff:trains"
PROBED_ALONE = "probe"
# If the predicted memory is at most this share of the limit, the configuration will fit, and nothing is waited for.
SURELY_FITS = 0.9


def settled_soon(
    parameters: TrialParameters,
    others: Sequence[FrozenTrial],
    knowledge: Knowledge,
    *,
    trains: bool,
) -> tuple[int, str] | None:
    """Return the number of the trial that is about to settle a configuration, and how, in a few words; None if there is none.

    Args:
        parameters: The configuration.
        others: Running trials of other workers.
        knowledge: The models fitted to the study's trials.
        trains: True if its learning class is to be trained; False if only its memory is missing.
    """
    for other in others:
        runs = other.system_attrs.get(TRAINS_ATTRIBUTE)
        if not runs and TRIAL_PLAN not in other.system_attrs:
            continue
        stages = ("probe",) if runs == PROBED_ALONE else ("probe", "train")
        plan = other.system_attrs.get(TRIAL_PLAN, {"params": other.params, "stages": stages})
        if (theirs := knowledge.setup.space.read(plan["params"])) is None:
            continue
        if trains and "train" in plan["stages"] and knowledge.class_of(theirs) == knowledge.class_of(parameters):
            return other.number, "trains its learning class"
        if (
            theirs.per_device_train_batch_size == parameters.per_device_train_batch_size
            and theirs.memory_class() == parameters.memory_class()
            and not _surely_fits(parameters, knowledge)
        ):
            return other.number, "measures its memory"
    return None


def _surely_fits(parameters: TrialParameters, knowledge: Knowledge) -> bool:
    known = knowledge.memory_mib(parameters)
    return known is not None and (known[1] == "probe" or known[0] <= knowledge.setup.memory_limit_mib * SURELY_FITS)
