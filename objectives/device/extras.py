"""What some values of a space need besides torch and transformers, and whether it is there.

It is found out once, in a trial's process, and stored with the device: what a study left out can be told anywhere. Nothing is
imported to find out, since a package may take seconds to import or initialise CUDA.
"""

import os
import shutil
import sys
from collections.abc import Collection
from importlib.util import find_spec

from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.knob import Need

# The variable that names the compiler, and the names that are looked for without it.
_COMPILERS = {
    "cpu": ("CXX", ("clang++",) if sys.platform == "darwin" else ("g++",)),
    "cuda": ("CC", ("gcc", "clang")),
}


def available_extras(kind: str) -> tuple[str, ...]:
    """Return the abilities that an installation gives a device, as `tradeoff.searchspace.knob.Need` names them.

    Args:
        kind: "cuda" or "cpu".
    """
    needs = {need for knob in KNOBS.values() for value in knob.kind.options() if (need := knob.needs(value)) is not None}
    return tuple(sorted(need.ability for need in needs if (need.package or need.compiler) and _is_met(need, kind)))


def _is_met(need: Need, kind: str) -> bool:
    if need.on not in (None, kind) or (need.package is not None and find_spec(need.package) is None):
        return False
    return not need.compiler or _has_compiler(kind)


def _has_compiler(kind: str) -> bool:
    # Triton builds its launcher with a C compiler; on a CPU, torch.compile writes C++ (torch._inductor.cpp_builder).
    variable, names = _COMPILERS[kind]
    has_compiler = any(shutil.which(os.environ.get(variable) or name) for name in names)
    return has_compiler and (kind == "cpu" or find_spec("triton") is not None)


def first_missing(parameters: TrialParameters, *, optimizer: str, abilities: Collection[str]) -> str | None:
    """Return in a sentence what one configuration needs and does not have, or None if it can be trained.

    Args:
        parameters: The configuration.
        optimizer: The job's, which holds where none is searched.
        abilities: What the device and the installation have.
    """
    for name, value in ({"optim": optimizer} | parameters.as_dict()).items():
        if (need := KNOBS[name].missing(value, abilities)) is not None:
            return f"{name}={value} {need.reason}"
    return None
