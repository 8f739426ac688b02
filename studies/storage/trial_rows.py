"""Trials as rows of Optuna's tables: read by two statements, and written by one for each table.

Optuna's own storage loads a trial by seven statements and writes its attributes by two each, most of them in transactions of
their own. With the database on another machine a statement is a round trip, and all workers of a study share what the database
can do in a second, so there are as few as possible here.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import mysql, postgresql, sqlite

_TRIALS = models.TrialModel.__table__
_HEARTBEATS = models.TrialHeartbeatModel.__table__
_PARAMS = models.TrialParamModel.__table__
_VALUES = models.TrialValueModel.__table__
_INTERMEDIATES = models.TrialIntermediateValueModel.__table__
_ATTRIBUTES = {"user": models.TrialUserAttributeModel.__table__, "system": models.TrialSystemAttributeModel.__table__}
# What a trial holds, by the table that it comes from; the numbers tell the rows of one statement apart.
_PARAM, _VALUE, _INTERMEDIATE, _USER, _SYSTEM = range(5)
_INFINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf")}
# Above this many trials in a list, a statement says from which one on instead: databases limit a list's length.
_MAX_IN_LIST = 5_000
# Of so few trials, what they hold is asked for by their ids.
_FEW = 100


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Which trials are meant.

    Attributes:
        parts: What must hold, each part by its name in `_PARTS`: with the same parts, a statement is the same.
        values: What is filled in.
    """

    parts: tuple[str, ...]
    values: Mapping[str, Any]


def of_study(study_id: int, *, after: int = -1, besides: Sequence[int] = (), states: Sequence[TrialState] = ()) -> Condition:
    """A study's trials with ids above `after` and, whatever their id, those `besides`."""
    parts, values = ["of_study"], {"study_id": study_id, "after": after, "besides": list(besides), "states": list(states)}
    if states:
        parts.append("in_states")
    if len(besides) > _MAX_IN_LIST:
        parts.append("from_first")
        values["first"] = min(besides)
    elif after >= 0:
        parts.append("after_or_besides" if besides else "after")
    return Condition(parts=tuple(parts), values=values)


def one_trial(trial_id: int) -> Condition:
    """One trial."""
    return of_trials([trial_id])


def of_trials(trial_ids: Sequence[int]) -> Condition:
    """Some trials."""
    return Condition(parts=("of_trials",), values={"trial_ids": list(trial_ids)})


def _several(name: str) -> Any:
    return sqlalchemy.bindparam(name, expanding=True)


_PARTS = {
    "of_trials": _TRIALS.c.trial_id.in_(_several("trial_ids")),
    "of_study": _TRIALS.c.study_id == sqlalchemy.bindparam("study_id"),
    "in_states": _TRIALS.c.state.in_(_several("states")),
    "from_first": _TRIALS.c.trial_id >= sqlalchemy.bindparam("first"),
    "after": _TRIALS.c.trial_id > sqlalchemy.bindparam("after"),
    "after_or_besides": sqlalchemy.or_(
        _TRIALS.c.trial_id.in_(_several("besides")), _TRIALS.c.trial_id > sqlalchemy.bindparam("after")
    ),
}


def read_trials(connection: sqlalchemy.Connection, condition: Condition) -> list[FrozenTrial]:
    """Reads trials, in the order of their ids.

    Their states are read first: what is read of a trial that had ended is what it ended with.
    """
    heads = connection.execute(_heads(condition.parts), condition.values).all()
    if not heads:
        return []
    trials = {
        head.trial_id: FrozenTrial(
            number=head.number,
            state=head.state,
            value=None,
            values=None,
            datetime_start=_local(head.datetime_start),
            datetime_complete=_local(head.datetime_complete),
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=head.trial_id,
        )
        for head in heads
    }
    if len(trials) <= _FEW:
        condition = of_trials(list(trials))
    values: dict[int, list[float]] = {}
    for trial_id, table, name, number, text, position in connection.execute(_held(condition.parts), condition.values):
        if (trial := trials.get(trial_id)) is None:
            continue  # made between the two statements
        if table == _USER:
            trial.user_attrs[name] = json.loads(text)
        elif table == _SYSTEM:
            trial.system_attrs[name] = json.loads(text)
        elif table == _PARAM:
            distribution = _distribution(text)
            trial.distributions[name] = distribution
            trial.params[name] = distribution.to_external_repr(number)
        elif table == _VALUE:
            values.setdefault(trial_id, []).append(_INFINITE.get(text, number))
        else:
            trial.intermediate_values[position] = float("nan") if text == "NAN" else _INFINITE.get(text, number)
    for trial_id, of_trial in values.items():
        trials[trial_id].values = of_trial
    return list(trials.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """What tells whether a trial that runs has lost its worker.

    Attributes:
        trial_id: The trial.
        owner: The attribute that names its owner, as JSON; None where it has none.
        silence: The time since its last heartbeat, by the database's clock; None where there was none.
    """

    trial_id: int
    owner: str | None
    silence: timedelta | None


def read_running(connection: sqlalchemy.Connection, study_id: int, *, owner_key: str) -> list[RunningTrial]:
    """The trials of a study that run, in the order of their ids."""
    system = _ATTRIBUTES["system"]
    is_owner = sqlalchemy.and_(system.c.trial_id == _TRIALS.c.trial_id, system.c.key == owner_key)
    tables = _TRIALS.outerjoin(system, is_owner).outerjoin(_HEARTBEATS, _HEARTBEATS.c.trial_id == _TRIALS.c.trial_id)
    query = (
        sqlalchemy.select(_TRIALS.c.trial_id, system.c.value_json, _HEARTBEATS.c.heartbeat, sqlalchemy.func.now().label("now"))
        .select_from(tables)
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
        .order_by(_TRIALS.c.trial_id)
    )
    return [
        # PostgreSQL gives its time with a zone, and the heartbeat, stored in the same one, without.
        RunningTrial(trial_id=i, owner=owner, silence=None if beat is None else now.replace(tzinfo=None) - beat)
        for i, owner, beat, now in connection.execute(query)
    ]


# A statement is built once: that takes longer than to run it.
@functools.cache
def _heads(parts: tuple[str, ...]) -> Any:
    columns = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    chosen = sqlalchemy.select(*(_TRIALS.c[name] for name in columns)).where(*(_PARTS[part] for part in parts))
    return chosen.order_by(_TRIALS.c.trial_id)


@functools.cache
def _held(parts: tuple[str, ...]) -> Any:
    """All that some trials hold: trial, table, name, number, text and position, in the order in which it was written."""
    no_text, no_number = sqlalchemy.null(), sqlalchemy.null()

    def part(table: sqlalchemy.Table, kind: int, name: Any, number: Any, text: Any, position: Any) -> Any:
        columns = (name.label("name"), number.label("number"), text.label("text"), position.label("position"))
        joined = table.join(_TRIALS, _TRIALS.c.trial_id == table.c.trial_id)
        # In the statement itself: as a parameter it has no type, where the database has to know one.
        number_of_table = sqlalchemy.literal_column(str(kind), sqlalchemy.Integer).label("kind")
        return (
            sqlalchemy.select(table.c.trial_id, number_of_table, *columns)
            .select_from(joined)
            .where(*(_PARTS[one] for one in parts))
        )

    def of_attributes(kind: int, table: sqlalchemy.Table) -> Any:
        return part(table, kind, table.c.key, no_number, table.c.value_json, next(iter(table.primary_key)))

    def of_numbers(kind: int, table: sqlalchemy.Table, number: Any, of_kind: Any, position: Any) -> Any:
        return part(table, kind, no_text, number, sqlalchemy.cast(of_kind, sqlalchemy.String(20)), position)

    v, i, p = _VALUES.c, _INTERMEDIATES.c, _PARAMS.c
    return sqlalchemy.union_all(
        part(_PARAMS, _PARAM, p.param_name, p.param_value, p.distribution_json, p.param_id),
        of_attributes(_USER, _ATTRIBUTES["user"]),
        of_attributes(_SYSTEM, _ATTRIBUTES["system"]),
        of_numbers(_VALUE, _VALUES, v.value, v.value_type, v.objective),
        of_numbers(_INTERMEDIATE, _INTERMEDIATES, i.intermediate_value, i.intermediate_value_type, i.step),
    ).order_by("position")


def first_distribution(connection: sqlalchemy.Connection, trial_id: int, name: str) -> BaseDistribution | None:
    """The distribution of a parameter in the study of a trial; None where no trial of it has the parameter."""
    study_id = sqlalchemy.select(_TRIALS.c.study_id).where(_TRIALS.c.trial_id == trial_id).scalar_subquery()
    query = (
        sqlalchemy.select(_PARAMS.c.distribution_json)
        .join(_TRIALS, _TRIALS.c.trial_id == _PARAMS.c.trial_id)
        .where(_TRIALS.c.study_id == study_id, _PARAMS.c.param_name == name)
        .limit(1)
    )
    text = connection.execute(query).scalar_one_or_none()
    return None if text is None else _distribution(text)


@functools.lru_cache(maxsize=1000)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(stored: datetime | None) -> datetime | None:
    """A moment as Optuna's trials have it: stored in UTC, seen in the local time, both without a name."""
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def now_utc() -> datetime:
    """This moment as the tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def state_of(connection: sqlalchemy.Connection, trial_id: int, *, locks: bool = False) -> TrialState:
    """A trial's state; with `locks` nobody else changes it before the transaction ends.

    Raises:
        KeyError: There is no such trial.
    """
    query = sqlalchemy.select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id)
    state = connection.execute(query.with_for_update() if locks else query).scalar_one_or_none()
    if state is None:
        raise KeyError(f"there is no trial with id {trial_id}")
    found: TrialState = state
    return found


def write_attributes(connection: sqlalchemy.Connection, kind: str, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Sets a trial's attributes of the kind "user" or "system"."""
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    if rows:
        connection.execute(_upsert(kind, connection.dialect.name), rows)


@functools.cache
def _upsert(kind: str, dialect: str) -> Any:
    table = _ATTRIBUTES[kind]
    if dialect in ("mysql", "mariadb"):
        added = mysql.insert(table)
        return added.on_duplicate_key_update(value_json=added.inserted.value_json)
    upsert: Any = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [table.c.trial_id, table.c.key]
    return upsert.on_conflict_do_update(index_elements=keys, set_={"value_json": upsert.excluded.value_json})


def write_params(
    connection: sqlalchemy.Connection, trial_id: int, params: Sequence[tuple[str, float, BaseDistribution]]
) -> None:
    """Adds parameters, each with its name, its value as Optuna stores it, and its distribution."""
    rows = [
        {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": _as_json(distribution)}
        for name, value, distribution in params
    ]
    connection.execute(sqlalchemy.insert(_PARAMS), rows)


def write_end(connection: sqlalchemy.Connection, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
    """Sets a trial's values and its state; where that is one in which it has ended, the moment too."""
    if values:
        connection.execute(sqlalchemy.insert(_VALUES), list(_value_rows(trial_id, values)))
    changed: dict[str, Any] = {"state": state}
    if state.is_finished():
        changed["datetime_complete"] = now_utc()
    connection.execute(sqlalchemy.update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(changed))


def write_heartbeat(connection: sqlalchemy.Connection, trial_id: int) -> bool:
    """Sets a trial's heartbeat to the database's time; False where the trial has none yet."""
    beat = sqlalchemy.update(_HEARTBEATS).where(_HEARTBEATS.c.trial_id == trial_id).values(heartbeat=sqlalchemy.func.now())
    return bool(connection.execute(beat).rowcount)


def _as_json(distribution: BaseDistribution) -> str:
    text: str = distribution_to_json(distribution)
    return text


def _value_rows(trial_id: int, values: Sequence[float]) -> Iterator[dict[str, Any]]:
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        yield {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
