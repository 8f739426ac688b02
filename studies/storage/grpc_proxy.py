"""Optuna's gRPC proxy as a database: one process is connected to the database, and any number of workers ask that one."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import grpc
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy

from tradeoff.studies.storage.locks import study_as_lock
from tradeoff.studies.storage.retry_policy import StorageAwayError, StorageError

OPEN_LIMIT_S = 5.0


class GrpcProxy:
    """A gRPC proxy; what is behind it is not known.

    Args:
        url: `grpc://HOST:PORT`.
    """

    is_local_file = False
    max_text_length: int | None = 30_000  # it may be MySQL
    errors: tuple[type[Exception], ...] = (grpc.RpcError,)

    def __init__(self, url: str) -> None:
        self.url = url

    def connect(self, *, create: bool) -> BaseStorage:  # noqa: D102
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = GrpcStorageProxy(host=str(host), port=int(parts.port or 0))
        try:
            storage.wait_server_ready(timeout=OPEN_LIMIT_S)
        except ConnectionError as error:
            storage.close()
            raise StorageAwayError(
                f"no gRPC proxy answers at {self.url} within {OPEN_LIMIT_S:.0f} s: start one as"
                " docs/guides/many-machines.md says, or correct the address"
            ) from error
        return storage

    def reconnected(self, storage: BaseStorage) -> BaseStorage:  # noqa: D102
        # A channel that has failed tries again after up to two minutes. Another thread may still use it: it is not closed.
        return self.connect(create=False)

    def as_storage_error(self, error: Exception) -> StorageError | None:  # noqa: D102
        assert isinstance(error, grpc.RpcError)
        lines = str(error.details() or error.code()).strip().splitlines()
        reason = lines[0] if lines else str(error.code())
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return StorageAwayError(f"the gRPC proxy {self.url} does not answer: {reason}")
        return StorageError(
            f"the gRPC proxy {self.url} does not answer as it should: {reason}; results already saved are kept: rerun the same"
            " command to resume once it does"
        )

    def check_in_place(self) -> None:  # noqa: D102
        pass  # it is a server

    def check_writable(self) -> None:  # noqa: D102
        pass  # what is behind it says so when it is written to

    def lock(self, storage: BaseStorage, study_name: str) -> AbstractContextManager[Any]:  # noqa: D102
        return study_as_lock(storage, study_name)

    def state_lock(self) -> AbstractContextManager[Any]:  # noqa: D102
        return nullcontext()
