"""Configurations that somebody else may have written: those in a storage and in an exported directory.

They are data: validated as a study file is, and no reason to run code. Whoever can write to a study's database could name any
function there, with any arguments, or a model whose own code runs when it is loaded. So such code runs only where the user
has named the same, in an option of the command or in a study file of their own.
"""

import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.jobs import AnyJob, CustomJob
from tradeoff.searchspace import KNOBS, SearchSpace
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import validated
from tradeoff.studies.errors import TradeoffError


@dataclass(frozen=True, kw_only=True)
class AllowedCode:
    """The code that the user lets a stored job run.

    Attributes:
        build: A function as `[DIRECTORY/]MODULE:FUNCTION`, which may be called with whatever arguments the job holds. Without a
            directory the module is that of the working directory: where it is from is never for the stored job to say.
        trust_remote_code: Whether code that comes with the job's model or data set from the Hub may run.
        job: A job of the user's own: what it runs may run, with the same arguments, or from the same model and data set.
        space: The space that is searched with it: its values may be arguments, and models, too.
    """

    build: str | None = None
    trust_remote_code: bool = False
    job: AnyJob | None = None
    space: SearchSpace | None = None

    def checked(self, job: AnyJob, *, where: str, searched: Mapping[str, Sequence[Any]] = {}) -> AnyJob:
        """Return a stored job if all of its code may run, with the module's directory as the user has it.

        Args:
            job: The job.
            where: What holds it, for the error.
            searched: The values of parameters with which it may be called.

        Raises:
            TradeoffError: It would run code that is not allowed; the sentence names it and the option.
        """
        if isinstance(job, CustomJob):
            folder, slash, function = (self.build or "").rpartition("/")
            if function == job.build:
                return job.model_copy(update={"python_path": str(Path(folder + slash).expanduser().resolve())})
            keywords = {name: values for name, values in searched.items() if KNOBS[name].is_beside_arguments}
            is_same = isinstance(self.job, CustomJob) and (self.job.build, self.job.kwargs) == (job.build, job.kwargs)
            if isinstance(self.job, CustomJob) and is_same and self._searches(keywords):
                return job.model_copy(update={"python_path": self.job.python_path})
            if job.is_sent:
                raise TradeoffError(
                    f"{where} is of a function of a program, {job.build}, which alone can run it: call tradeoff.search there"
                    " again, or keep the function in a module"
                )
            given = {**job.kwargs, **{name: list(values) for name, values in keywords.items()}}
            arguments = f" with {textwrap.shorten(repr(given), 200)}" if given else ""
            raise TradeoffError(
                f"code runs only if you name it yourself, and {where} names {job.build}{arguments}: if that is yours, add"
                f" --build [DIRECTORY/]{job.build}, or --study-file STUDY.yaml that names the same"
            )
        if job.trust_remote_code and not self.trust_remote_code:
            models = {name: values for name, values in searched.items() if name == "model"}
            if _code_from_hub(self.job) != _code_from_hub(job) or not self._searches(models):
                named = ", ".join(repr(model) for model in dict.fromkeys([job.model, *models.get("model", ())]))
                raise TradeoffError(
                    f"code runs only if you trust it yourself, and {where} trusts that of the model {named} and the data set"
                    f" {job.dataset!r}: if you do, add --trust-remote-code, or --study-file STUDY.yaml that trusts the same"
                )
        return job

    def _searches(self, searched: Mapping[str, Sequence[Any]]) -> bool:
        """Return True if the user's own study may try all of these values."""
        given = ({name: value} for name, values in searched.items() for value in values)
        return all(self.space is not None and self.space.foreign(one) is None for one in given)


# Text classification without code of a model's own needs nothing.
NO_CODE = AllowedCode()


def option_for(job: AnyJob) -> str:
    """Return the option, with a blank before it, that lets a job run its code; empty if it needs none."""
    if isinstance(job, CustomJob):
        folder = os.path.relpath(job.python_path or os.curdir)
        return f" --build {shlex.quote(job.build if folder == os.curdir else f'{folder}/{job.build}')}"
    return " --trust-remote-code" if job.trust_remote_code else ""


def _code_from_hub(job: AnyJob | None) -> tuple[str, ...] | None:
    """Return what a job trusts to run code of its own; None if that is nothing."""
    if job is None or isinstance(job, CustomJob) or not job.trust_remote_code:
        return None
    return job.model, job.dataset, job.dataset_config or ""


def stored_config(attributes: Mapping[str, Any], *, name: str, place: str, allowed: AllowedCode | None = None) -> StudyConfig:
    """Return the configuration of a stored study.

    Args:
        attributes: The study's user attributes.
        name: The study's name, by which others find it: not for its configuration to say.
        place: The storage, without its password.
        allowed: The code that it may run; None if it is not run.

    Raises:
        TradeoffError: The configuration is not that of a study, and the sentence names the first problem; or it would run code
            that is not allowed.
    """
    where, config = f"the study {name!r} in {place}", attributes["config"]
    if not isinstance(config, Mapping):
        raise TradeoffError(f"the configuration of {where} must hold keys and values, got {type(config).__name__}")
    study = validated({**config, "name": name}, where=f"the configuration of {where}")
    if allowed is None:
        return study
    job = allowed.checked(study.job, where=where, searched=values_of(study.search_space()))
    return study.model_copy(update={"job": job})


def values_of(space: SearchSpace) -> dict[str, tuple[Any, ...]]:
    """Return the values of each parameter of a space, or the ends of a range."""
    return {name: domain.examples() for name, domain in space.domains.items()}


def check_module(job: CustomJob) -> None:
    """Check that the exported script will find the module of a function.

    Raises:
        TradeoffError: It is not there.
    """
    package = job.build.partition(":")[0].partition(".")[0]
    if PathFinder.find_spec(package, [job.python_path or "", *sys.path]) is None:
        raise TradeoffError(
            f"job.build {job.build!r} must name a module, and there is no {package} in {job.python_path}; name its directory:"
            f" --build DIRECTORY/{job.build}"
        )
