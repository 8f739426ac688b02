"""What must hold at the end of a study under fire, and the figures of what happened; see `under_fire`."""

import json
import math
import signal
from collections import Counter
from collections.abc import Iterable
from typing import Any

from optuna.trial import TrialState
from running import command_line
from under_fire import Command, UnderFire, counts

from tradeoff.studies.execution.interrupts import EXIT_STATUS

# What ends a command with status 1 or 2 and a sentence of its own, where the database was stopped or its trials were killed.
EXPECTED_ENDS = ("can't be opened", "does not answer", "trials in a row failed", "was killed by SIGKILL")


def problems(fire: UnderFire, asked: int) -> list[str]:
    """What does not hold, of what must hold at the end of a study of `asked` trials."""
    trials = fire.trials()
    ended = [trial for trial in trials if trial.state.is_finished()]
    counted = [trial for trial in trials if counts(trial)]
    running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
    silent = [t.number for t in ended if t.user_attrs.get("outcome") != "completed" and not t.user_attrs.get("reason")]
    endless = [t.number for t in ended if t.values and not all(map(math.isfinite, t.values))]
    repeated = _more_than_once(json.dumps(trial.params, sort_keys=True) for trial in counted)
    again = _more_than_once(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs)
    untold = [path.name for path in (fire.folder / "artifacts" / "pending-outcomes").glob("*")]
    left = [f"{pid} ({command_line(pid)})" for pid in fire.processes()]
    # One line at most for each command, so that they are told apart.
    tracebacks = [command.log.name for command in fire.commands if "Traceback" in command.said]
    ends = [f"{c.log.name}: {_how(c)}" for c in fire.commands if not _is_expected(c)]
    said = "".join(command.said for command in fire.commands)
    checks = {
        f"{len(counted)} trials counted, {asked} were asked for": len(counted) == asked,
        f"trials {running} run for ever": not running,
        f"trials {silent} have no reason": not silent,
        f"trials {endless} have a value that is no number": not endless,
        f"the configurations {repeated} were counted more than once": not repeated,
        f"trials {again} were tried again more than once": not again,
        f"outcomes {untold} were not told": not untold,
        f"processes {left} are left": not left,
        f"commands ended as they should not: {ends}": not ends,
        f"the user saw a traceback: {tracebacks}": not tracebacks,
        "the user saw 'database is locked'": "database is locked" not in said,
        "a password was printed": fire.server is None or fire.server.password not in said,
    }
    return [problem for problem, holds in checks.items() if not holds]


def figures(fire: UnderFire) -> dict[str, Any]:
    trials = fire.trials()
    ends: dict[str, Counter[str]] = {}
    for command in fire.commands:
        ends.setdefault(command.role, Counter())[str(command.process.poll())] += 1
    return {
        "trials": len(trials),
        "counted": sum(map(counts, trials)),
        "outcomes": _sorted(Counter(str(t.user_attrs.get("outcome", t.state.name)) for t in trials)),
        "tried_again": sum("retry_of" in t.user_attrs for t in trials),
        "told_by_another": sum("measured_in" in t.user_attrs for t in trials),
        "faults": _sorted(fire.faults),
        "commands_ended_with": {role: _sorted(statuses) for role, statuses in sorted(ends.items())},
        "last_words": _sorted(Counter(_how(c) for c in fire.commands if c.process.poll() in (1, 2))),
        "dashboard_answered": _sorted(fire.dashboard_answers),
    }


def _how(command: Command) -> str:
    lines = command.said.strip().splitlines()
    return f"status {command.process.poll()}, {lines[-1] if lines else 'nothing said'}"


def _is_expected(command: Command) -> bool:
    status = command.process.poll()
    if status in (0, -signal.SIGKILL):
        return True
    if status == EXIT_STATUS:
        return command.role in ("run", "worker")
    return status in (1, 2) and any(end in _how(command) for end in EXPECTED_ENDS)


def _more_than_once(found: Iterable[Any]) -> list[Any]:
    return [one for one, times in Counter(found).items() if times > 1]


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))
