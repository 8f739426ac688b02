"""What some values of a space need besides torch and transformers, and whether it is there.

It is found out once, in a trial's process, and stored with the device: what a study left out can be told anywhere. Nothing is
imported to find out, since a package may take seconds or initialise CUDA.
"""

import os
import shutil
import sys
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from typing import Any

from tradeoff.searchspace import TrialParameters
from tradeoff.searchspace.choices import FLASH_ATTENTION, OPTIMIZERS

# Parameters of which some values need more than torch and transformers.
KNOBS_WITH_NEEDS = ("optim", "attn_implementation", "torch_compile")
COMPILER = "torch_compile"


def available_extras(kind: str) -> tuple[str, ...]:
    """The extras that are there: packages of optimizers, and `flash_attention_2` and `torch_compile` where they can work.

    Args:
        kind: "cuda" or "cpu".
    """
    packages = sorted({package for package in OPTIMIZERS.values() if package is not None})
    found = [package for package in packages if find_spec(package) is not None]
    if kind == "cuda" and find_spec("flash_attn") is not None:
        found.append(FLASH_ATTENTION)
    # Triton builds its launcher with a C compiler; on a CPU, torch.compile writes C++ (torch._inductor.cpp_builder).
    variable, names = _COMPILERS[kind]
    has_compiler = any(shutil.which(os.environ.get(variable) or name) for name in names)
    if has_compiler and (kind == "cpu" or find_spec("triton") is not None):
        found.append(COMPILER)
    return tuple(found)


def missing(name: str, value: Any, extras: AbstractSet[str]) -> str | None:
    """What a value of a parameter needs and does not have, in words; None where it can be tried.

    Args:
        name: One of `KNOBS_WITH_NEEDS`.
        value: The value.
        extras: What `available_extras` found.
    """
    if name == "optim":
        package = OPTIMIZERS.get(value)
        return None if package is None or package in extras else f"the package {package}, which is not installed"
    if name == "attn_implementation" and value == FLASH_ATTENTION and FLASH_ATTENTION not in extras:
        return "a card and the package flash_attn"
    if name == "torch_compile" and value and COMPILER not in extras:
        return "a compiler: g++ (clang++ on macOS) on a CPU, triton and gcc or clang on a card"
    return None


def first_missing(parameters: TrialParameters, *, optimizer: str, extras: AbstractSet[str]) -> str | None:
    """What one configuration needs and does not have, in a sentence; None where it can be trained.

    Args:
        parameters: The configuration.
        optimizer: The job's, which holds where none is searched.
        extras: What `available_extras` found.
    """
    for name in KNOBS_WITH_NEEDS:
        value = getattr(parameters, name) or (optimizer if name == "optim" else None)
        if (why := missing(name, value, extras)) is not None:
            return f"{name}={value} needs {why}"
    return None


# The variable that names the compiler, and those that are looked for without it.
_COMPILERS = {
    "cpu": ("CXX", ("clang++",) if sys.platform == "darwin" else ("g++",)),
    "cuda": ("CC", ("gcc", "clang")),
}
