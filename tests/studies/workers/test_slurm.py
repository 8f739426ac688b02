"""Workers of a study as jobs of a real Slurm: an array that is told of its time limit, ends in order, and is requeued."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from running import poll
from slurm import Slurm, why_not

from tradeoff.studies.storage.opening import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A Trainer that waits in its first step for as long as there is a file `hold`.
HELD = """
import pathlib, time
from line_trainer import Line, samples
from transformers import Trainer, TrainerCallback

class Hold(TrainerCallback):
    def on_step_begin(self, *_, **__):
        pathlib.Path("begun").touch()
        while pathlib.Path("hold").exists():
            time.sleep(0.05)

def build(args):
    return Trainer(model=Line(), args=args, train_dataset=samples(), eval_dataset=samples(16), callbacks=[Hold()])
"""
STUDY = {
    "name": "lines",
    "job": {"build": "held:build", "epochs": 1, "learning_rate": 0.1},
    "space": {
        "per_device_train_batch_size": [2, 4, 8, 16],
        "gradient_accumulation_steps": [1, 2],
        "gradient_checkpointing": False,
        "precision": "fp32",
    },
    "sampler": "grid",
    "reuse": "off",
    "trials": 8,
}
# As docs/guides/many-machines.md has it, with processors for GPUs.
ARRAY = """#!/bin/bash
#SBATCH --array=1-2
#SBATCH --cpus-per-task=1
#SBATCH --time=00:02:00
#SBATCH --signal=TERM@20
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=worker-%a.log
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
echo "start ${SLURM_RESTART_COUNT:-0}"
srun {tradeoff} worker lines --build held:build
status=$?
echo "end $status"
if [ $status -eq 130 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit $status
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    cluster = Slurm(num_cpus=2)
    yield cluster
    cluster.close()


def trials(folder: Path) -> list[Any]:
    return optuna.load_study(study_name="lines", storage=open_storage(str(folder / "tradeoff.db"), create=False)).trials


def test_an_array_of_workers_ends_in_order_before_its_time_limit_and_is_requeued_until_the_study_is_complete(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tradeoff = shlex.join([sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"])
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2] / 'helpers'}")
    monkeypatch.delenv("TRADEOFF_STORAGE", raising=False)
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY))
    (tmp_path / "array.sh").write_text(ARRAY.replace("{tradeoff}", tradeoff))
    # In a job of the workers' shape: a study is measured with as many processors as a trial has.
    print(
        slurm.run("srun", "--cpus-per-task=1", *shlex.split(tradeoff), "run", "study.yaml", "--timeout", "0", folder=tmp_path)
    )
    (tmp_path / "hold").touch()
    submitted = slurm.run("sbatch", "array.sh", folder=tmp_path)
    assert "Submitted batch job" in submitted, submitted
    logs = [tmp_path / f"worker-{number}.log" for number in (1, 2)]

    def said(line: str) -> int:
        return sum(log.read_text().splitlines().count(line) for log in logs if log.exists())

    poll(lambda: said("end 130") == 2, "a signal before the time limit", limit_s=240)
    assert Counter(trial.user_attrs.get("outcome") for trial in trials(tmp_path) if trial.state.is_finished()) == {
        "interrupted": 2
    }
    (tmp_path / "hold").unlink()
    poll(lambda: said("start 1") == 2, "the jobs to be requeued", limit_s=240)
    poll(lambda: not slurm.run("squeue", "--noheader").strip(), "the end of all jobs", limit_s=300)
    print(*(log.read_text() for log in logs), sep="\n\n")
    assert said("end 0") == 2
    outcomes = Counter(trial.user_attrs.get("outcome") for trial in trials(tmp_path))
    assert outcomes["completed"] == 8
    assert outcomes.keys() == {"completed", "interrupted"}
