"""The exported `train.py` of a job of the user's own: it calls the user's function with the chosen TrainingArguments."""

import json

from tradeoff.objectives.job.arguments import beside_arguments
from tradeoff.objectives.job.settings import CustomJob
from tradeoff.objectives.measurements.goals import metric_name
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.export.train_script import DETERMINISTIC, on_devices

_SCRIPT = '''"""Trains the configuration that tradeoff chose: {title}.

Needs transformers, and what {build} needs. Reads training_args.json beside it, writes the model into the folder `model`
beside it.
"""

import importlib
import json
import os
import sys
from pathlib import Path

{libraries}

FOLDER = Path(__file__).resolve().parent
{processes}{deterministic}
sys.path.insert(0, {folder})
build = importlib.import_module({module}).{function}

settings = json.loads((FOLDER / "training_args.json").read_text(encoding="utf-8"))
arguments = TrainingArguments(**(settings | {{"output_dir": str(FOLDER / "model")}}))
set_seed({seed})  # as in the study, before anything is drawn
trainer = build(arguments{kwargs})
trainer.train()
trainer.save_model()
trainer.save_state()
'''

_SHOW = """\
# The model after the last epoch{expected}.
metrics = trainer.evaluate()
print({name}, next(metrics[key] for key in ({name}, {bare}) if key in metrics))
"""


def custom_script(
    job: CustomJob, parameters: TrialParameters, *, title: str, expected: str | None, num_processes: int = 1
) -> str:
    """The text of `train.py`.

    Args:
        job: The job of the study.
        parameters: The configuration.
        title: What was chosen, in words.
        expected: What the study's trial has learned and where that comes from, in words; None where it has learned nothing.
        num_processes: How many processes train together.
    """
    module, _, function = job.build.partition(":")
    # kwargs are JSON; as a string literal they are read the same way that the study read them.
    settings = {**job.kwargs, **beside_arguments(parameters)}
    kwargs = f", **json.loads({json.dumps(json.dumps(settings))})" if settings else ""
    script = _SCRIPT.format(
        title=title.replace("\\", "").replace('"', "'"),
        build=job.build,
        processes=on_devices(num_processes),
        libraries=("import torch\n" if job.deterministic else "") + "from transformers import TrainingArguments, set_seed",
        deterministic=DETERMINISTIC if job.deterministic else "",
        folder=json.dumps(job.python_path or ""),
        module=json.dumps(module),
        function=function,
        seed=job.seed,
        kwargs=kwargs,
    )
    if job.metric is None:
        return script
    key = f"eval_{job.metric.removeprefix('eval_')}"
    show = _SHOW.format(
        expected="" if expected is None else f"; the study has {metric_name(job.metric)} {expected}",
        name=json.dumps(key),
        bare=json.dumps(key.removeprefix("eval_")),
    )
    return script + show
