"""The packages and compilers that some values of a space need besides torch and transformers, and whether they are available.

It is found out once, in a trial's process, and stored with the device, so that what a study leaves out can be told anywhere.
Nothing is imported to find out, because a package may take seconds to import or initialise CUDA.
"""

import os
import shutil
from collections.abc import Collection, Sequence
from importlib.util import find_spec

from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.knob import Need


def installation_needs() -> set[Need]:
    """Return all that a value of a knob may need of an installation."""
    needs = {need for knob in KNOBS.values() for value in knob.kind.options() if (need := knob.needs(value)) is not None}
    return {need for need in needs if need.package or need.compiler}


def is_installed(package: str) -> bool:
    """Return True if a package can be imported."""
    return find_spec(package) is not None


def has_compiler(variable: str, names: Sequence[str]) -> bool:
    """Return True if there is a compiler: the one that an environment variable names, or one of `names`."""
    return any(shutil.which(os.environ.get(variable) or name) for name in names)


def first_missing(parameters: TrialParameters, *, optimizer: str, abilities: Collection[str]) -> str | None:
    """Return in a sentence what a configuration needs and does not have, or None if it can be trained.

    Args:
        parameters: The configuration.
        optimizer: The job's, which is used if none is searched.
        abilities: The precisions and extras of the device.
    """
    for name, value in ({"optim": optimizer} | parameters.as_dict()).items():
        if (need := KNOBS[name].missing(value, abilities)) is not None:
            return f"{name}={value} {need.reason}"
    return None
