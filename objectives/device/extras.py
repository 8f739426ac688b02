"""The packages and compilers that some values of a space need besides torch and transformers, and whether they are available.

It is found out once, in a trial's process, and stored with the device, so that what a study leaves out can be told anywhere.
Nothing is imported to find out, because a package may take seconds to import or initialise CUDA.
"""

import os
import shutil
from collections.abc import Collection, Sequence
from importlib.util import find_spec

from tradeoff.objectives.job.jobs import AnyJob
from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.knob import Need, Target

LANGUAGE_MODELS = Need(
    ability="trl", package="trl", reason="needs the package trl, which is not installed (pip install 'tradeoff[llm]')"
)


def installation_needs() -> set[Need]:
    """Return all that a value of a knob, or a task, may need of an installation."""
    needs = {need for knob in KNOBS.values() for value in knob.kind.options() if (need := knob.needs(value)) is not None}
    return {need for need in (*needs, LANGUAGE_MODELS) if need.package or need.compiler or need.on}


def is_installed(package: str) -> bool:
    """Return True if a package can be imported."""
    return find_spec(package) is not None


def has_compiler(variable: str, names: Sequence[str]) -> bool:
    """Return True if there is a compiler: the one that an environment variable names, or one of `names`."""
    return any(shutil.which(os.environ.get(variable) or name) for name in names)


def first_missing(parameters: TrialParameters, *, job: AnyJob, abilities: Collection[str]) -> str | None:
    """Return in a sentence what a configuration needs and does not have, or None if it can be trained.

    Args:
        parameters: The configuration.
        job: The job, whose settings are used where they are not searched.
        abilities: The precisions and extras of the device.
    """
    lora = job.lora if isinstance(job, BuiltInJob) else None
    fixed = {name: getattr(job, name) for name in KNOBS if name in type(job).model_fields}
    used = fixed | ({} if lora is None else {"lora_rank": lora.r}) | parameters.as_dict()
    for name, value in used.items():
        if KNOBS[name].target is Target.JOB and not isinstance(job, BuiltInJob):
            continue  # a keyword of the user's own function, which knows what it needs
        if (need := KNOBS[name].missing(value, abilities)) is not None:
            return f"{name}={value} {need.reason}"
    return None
