"""Search the settings of a Hugging Face fine-tune jointly, for accuracy, training time and peak memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tradeoff.objectives.objective import TrialFailed
    from tradeoff.studies.errors import StudyFailed, TradeoffError
    from tradeoff.studies.python.arguments import training_arguments
    from tradeoff.studies.python.chosen import Configuration
    from tradeoff.studies.python.hyperparameter_search import hyperparameter_search
    from tradeoff.studies.python.objective import DecoupledSampler, Objective
    from tradeoff.studies.python.result import Result, load
    from tradeoff.studies.python.search import search

# Where each name is from: importing the package itself imports no other library.
_PLACES = {
    "Configuration": "tradeoff.studies.python.chosen",
    "DecoupledSampler": "tradeoff.studies.python.objective",
    "Objective": "tradeoff.studies.python.objective",
    "Result": "tradeoff.studies.python.result",
    "StudyFailed": "tradeoff.studies.errors",
    "TradeoffError": "tradeoff.studies.errors",
    "TrialFailed": "tradeoff.objectives.objective",
    "hyperparameter_search": "tradeoff.studies.python.hyperparameter_search",
    "load": "tradeoff.studies.python.result",
    "search": "tradeoff.studies.python.search",
    "training_arguments": "tradeoff.studies.python.arguments",
}

__all__ = [
    "Configuration",
    "DecoupledSampler",
    "Objective",
    "Result",
    "StudyFailed",
    "TradeoffError",
    "TrialFailed",
    "hyperparameter_search",
    "load",
    "search",
    "training_arguments",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
