"""One configuration, chosen from a study."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import CustomJob, parse_job
from tradeoff.studies.config.stored import AllowedCode, check_module
from tradeoff.studies.export.export import export, export_files
from tradeoff.studies.export.targets import check_target, targets_of
from tradeoff.studies.python.arguments import arguments_of
from tradeoff.studies.python.errors import speaking_python
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.selection import Choice
from tradeoff.studies.results.tables import short_configuration


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration of a study, chosen from its front.

    Example:
        >>> knee = result.knee
        >>> sorted(knee.values)
        ['accuracy', 'peak_memory_mib', 'train_time_s']
        >>> knee.why
        'the knee of the front'
        >>> files = knee.export("chosen")

    Attributes:
        trial: The number of its trial; None if it is derived and not published yet.
        params: The searched parameters by name.
        values: The objectives by name.
        sources: For each objective, where its value comes from: "measured", "expected by all trainings", "probe", "trained in
            trial 12", ...
        why: Why it was chosen.
    """

    trial: int | None
    params: Mapping[str, Any]
    values: Mapping[str, float]
    sources: Mapping[str, str]
    why: str
    _results: StudyResults
    _choice: Choice
    _allowed: AllowedCode

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self.values.items())
        return f"<{short_configuration(self.params)}: {values}; {self.why}>"

    @speaking_python
    def export(self, output: str | Path, *, to: str | Sequence[str] = ()) -> list[Path]:
        """Write the configuration as files to train with, as `tradeoff export --no-confirm` does: a value that was derived is
        marked as such.

        Args:
            output: A directory that does not exist yet, or is empty. `tradeoff.training_arguments` reads it.
            to: Other programs whose files are added: axolotl, trl, llamafactory, accelerate, deepspeed.

        Returns:
            The files. `train.py` is not among them if the study's function is one of a notebook or a script.

        Raises:
            TradeoffError: It is not empty, or can't be written; or the study is one that was loaded, and its `train.py` would
                run code that `tradeoff.load` was not told.
        """
        results, job, targets = (
            self._results,
            parse_job(self._results.config["job"]),
            targets_of([to] if isinstance(to, str) else to),
        )
        for target in targets:
            check_target(target, job_of(job, self.params))
        if not (isinstance(job, CustomJob) and job.is_sent):  # which has no script
            where = f"the study {results.name!r} in {results.storage}"
            job = self._allowed.checked(job, where=where, searched={name: [value] for name, value in self.params.items()})
            if isinstance(job, CustomJob):
                check_module(job)
            results = replace(results, config={**results.config, "job": job.model_dump(mode="json")})
        return export(results, self._choice, Path(output), targets=targets)

    def training_arguments(self, output_dir: str | Path = "model", **changes: Any) -> Any:
        """Return the `transformers.TrainingArguments` that train it, as its trial did.

        Args:
            output_dir: Where the Trainer may write.
            changes: Further arguments, or other values for some.
        """
        files = export_files(self._results, self._choice, output_dir=str(output_dir))
        return arguments_of(parse_job(self._results.config["job"]), json.loads(files["training_args.json"]) | changes)
