"""What a study ran on: the versions of the libraries, read without importing them."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "optuna", "numpy")


def tradeoff_version() -> str:
    """This product's version."""
    return version("tradeoff")


def library_versions() -> dict[str, str]:
    """Versions by package, Python's own included; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
