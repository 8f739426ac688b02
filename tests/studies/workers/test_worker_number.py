"""Workers that begin apart, on machines that share nothing but the storage: with a seed each draws something else."""

import multiprocessing
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from grpc_proxy import Proxy
from running import Recorder
from simulated_worker import small_study

from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.worker_number import take_worker_number
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.workers import run as runner

NUM_WORKERS = 2
NUM_EACH = 3
SEEDED = small_study(
    sampler="random",
    sampler_seed=7,
    trials=NUM_WORKERS * NUM_EACH,
    space=SpaceConfig(
        per_device_train_batch_size=[2, 4, 8],
        gradient_accumulation_steps=[1],
        gradient_checkpointing=[False],
        precision=["fp32"],
        learning_rate={"low": 1e-5, "high": 1e-3, "log": True},
    ),
)


class Together(Recorder):
    """A display that lets its worker begin its first trial when all have their samplers, and leaves its share to each."""

    def __init__(self, begin: Any) -> None:
        super().__init__()
        self._begin = begin

    def trials(self, records: Any) -> None:
        if self._begin is not None:
            self._begin.wait(120)
            self._begin = None


def _join(url: str, begin: Any, drawn: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runner.TrialServer = lambda: simulated.SimulatedServer(simulated.SimulatedRunner())  # type: ignore[assignment,misc]
    display = Together(begin)
    runner.join_study("small", storage=url, display=display)
    drawn.put([parameters["learning_rate"] for _, parameters in display.started])


def _number(url: str, begin: Any, numbers: Any) -> None:
    study = load_study("small", open_storage(url))
    begin.wait(120)
    numbers.put(take_worker_number(study))


def at_once(url: str, work: Any, num_processes: int = NUM_WORKERS) -> list[Any]:
    """What processes that begin at the same moment have put down."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_worker_number"])
    begin, output = context.Barrier(num_processes), context.Queue()
    processes = [context.Process(target=work, args=(url, begin, output)) for _ in range(num_processes)]
    for process in processes:
        process.start()
    said = [output.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(120)
    return said


def run_here(url: str, config: StudyConfig, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[float]:
    """Runs the study in this process; the learning rates that it drew."""
    monkeypatch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
    display = Recorder()
    runner.run_study(config, storage=url, display=display, **settings)
    return [parameters["learning_rate"] for _, parameters in display.started]


def test_two_workers_that_join_with_a_seed_do_not_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    run_here(url, SEEDED, monkeypatch, timeout_s=0)
    one, other = at_once(url, _join)
    assert len(one) + len(other) == SEEDED.trials
    assert not set(one) & set(other)


def test_one_worker_with_a_seed_draws_the_same_again_also_when_it_is_ended_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for name in "ab":
        url = f"sqlite:///{tmp_path}/{name}.db"
        first = run_here(url, SEEDED.model_copy(update={"trials": 2}), monkeypatch)
        drawn.append((first, run_here(url, SEEDED, monkeypatch)))
    assert drawn[0] == drawn[1]
    assert [len(part) for part in drawn[0]] == [2, SEEDED.trials - 2]
    assert len({*drawn[0][0], *drawn[0][1]}) == SEEDED.trials


@pytest.mark.parametrize("kind", ["postgresql", "proxy"])
def test_workers_that_begin_at_once_have_each_a_number_of_its_own(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = request.getfixturevalue("postgres_url") if kind == "postgresql" else f"sqlite:///{tmp_path}/a.db"
    run_here(database, SEEDED.model_copy(update={"sampler_seed": None}), monkeypatch, timeout_s=0)
    if kind != "proxy":
        assert sorted(at_once(database, _number, 3)) == [0, 1, 2]
        return
    with Proxy(database) as proxy:
        proxy.wait()
        assert len(set(at_once(proxy.url, _number, 3))) == 3
