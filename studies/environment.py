"""The versions of the libraries that a study runs on, read without importing them."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "optuna", "numpy")


def tradeoff_version() -> str:
    """Return the version of tradeoff."""
    return version("tradeoff")


def library_versions() -> dict[str, str]:
    """Return versions by package, Python's own included; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
