"""A study behind Optuna's gRPC proxy: one process is connected to the database, and any number of workers ask that one.

The proxy passes on no heartbeat. So each trial names its worker here too, and one that died is noticed by those on its machine
alone. What is asked while the proxy is away waits until it answers again. What was on its way when it went may have been done
or not: it is not asked again, but ends the worker with a sentence. There is no lock: `studies/samplers/decoupled.py`
and `objectives/objective.py` say how workers decide without.
"""

import copy
import functools
import json
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy
from optuna.storages._grpc.auto_generated import api_pb2_grpc
from optuna.storages._grpc.client import GrpcClientCache
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import StorageAwayError

OPEN_LIMIT_S = 5.0
# How long a call waits for a proxy that is away.
CALL_LIMIT_S = 300


class ProxyStorage(GrpcStorageProxy):
    """Optuna's client of the proxy, with an owner for each trial, and errors that are sentences.

    Args:
        url: `grpc://HOST:PORT`.

    Raises:
        StorageAwayError: Nothing answers there within some seconds.
    """

    # Of the database behind the proxy nothing is known: it may be on another machine.
    is_sqlite = False
    # Shown to the user once.
    lacks = (
        "a gRPC proxy passes on no heartbeat: a worker that is killed is noticed by workers on its own machine alone"
        " (docs/guides/many-machines.md says how to end its trial)"
    )

    def __init__(self, url: str) -> None:
        self.url = url
        self._stale_in: dict[int, int] = {}  # the study of each stale trial
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(host=str(host), port=int(parts.port or 0))
        self._is_away = False
        self.check_answers()

    def check_answers(self) -> None:
        """Waits some seconds for the proxy.

        Raises:
            StorageAwayError: Nothing answers.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=OPEN_LIMIT_S)
        except grpc.FutureTimeoutError:
            raise StorageAwayError(
                f"no gRPC proxy answers at {self.url} within {OPEN_LIMIT_S:.0f} s: start one as docs/guides/many-machines.md"
                " says, or correct the address"
            ) from None
        self._is_away = False

    def _setup(self) -> None:
        # The setting of a call's limit, and that it waits for a server that is away (https://grpc.io/docs/guides/service-config).
        calls = {"methodConfig": [{"name": [{}], "waitForReady": True, "timeout": f"{CALL_LIMIT_S}s"}]}
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.service_config", json.dumps(calls)),
            # Otherwise the pause before the next attempt to connect grows to two minutes.
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self._channel = grpc.insecure_channel(f"{self._host}:{self._port}", options=options)
        self._stub = api_pb2_grpc.StorageServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._cache = GrpcClientCache(self._stub)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Makes a trial that says which process runs it."""
        template = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.copy(template_trial)
        template.system_attrs = {**template.system_attrs, OWNER_ATTRIBUTE: _owner()}
        return int(super().create_new_trial(study_id, template))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Ends a trial, or takes one that waits."""
        changed = bool(super().set_trial_state_values(trial_id, state, values))
        if state == TrialState.RUNNING and changed:
            self.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, _owner())
        return changed

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Running trials whose worker was on this machine and has ended."""
        stale = []
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.system_attrs.get(OWNER_ATTRIBUTE)
            if owner is not None and Owner.read(owner).is_gone():
                stale.append(trial._trial_id)
                self._stale_in[trial._trial_id] = study_id
        return stale

    def give_up(self, trial_id: int, attributes: Mapping[str, Any], successor: FrozenTrial | None) -> bool:
        """Ends a trial whose worker is gone as failed, and queues the one that takes its place.

        Args:
            trial_id: The trial, one of the stale ones.
            attributes: User attributes that say what happened.
            successor: What is to be tried instead, or None.

        Returns:
            Whether it was done here; False if the trial had ended meanwhile.
        """
        try:
            for key, value in attributes.items():
                self.set_trial_user_attr(trial_id, key, value)
            self.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        if successor is not None:
            # Whoever has ended the trial is alone here.
            self.create_new_trial(self._stale_in[trial_id], successor)
        return True


def _owner() -> dict[str, Any]:
    return {**Owner.here().as_dict(), "mark": uuid.uuid4().hex}


def _as_sentence(name: str) -> Callable[..., Any]:
    """A method whose failures of the connection, or of what is behind it, are sentences."""
    plain = getattr(ProxyStorage, name)

    @functools.wraps(plain)
    def method(self: ProxyStorage, *arguments: Any, **named: Any) -> Any:
        if self._is_away:
            self.check_answers()  # what is done on the way out must not wait as long again
        try:
            return plain(self, *arguments, **named)
        except grpc.RpcError as error:
            self._is_away = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            lines = str(error.details() or error.code()).strip().splitlines()
            raise StorageAwayError(
                f"the gRPC proxy {self.url} does not answer as it should: {lines[0] if lines else error.code()};"
                " what was told is kept, and the same command goes on once it does"
            ) from error

    return method


for _name in sorted(BaseStorage.__abstractmethods__ | {"get_trial_id_from_study_id_trial_number"}):
    setattr(ProxyStorage, _name, _as_sentence(_name))
