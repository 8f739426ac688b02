"""A storage in memory, for studies of one process."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage

from tradeoff.studies.storage.retrying import RetryingStorage


class InMemoryDatabase:
    is_local_file = False
    max_text_length: int | None = None
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, url: str = "InMemoryStorage") -> None:
        self.url = url
        self._lock = threading.Lock()

    def connect(self, *, create: bool) -> BaseStorage:
        return InMemoryStorage()

    def reconnected(self, storage: BaseStorage) -> BaseStorage:
        return storage

    def as_storage_error(self, error: Exception) -> None:
        return None

    def check_in_place(self) -> None: ...

    def check_writable(self) -> None: ...

    def lock(self, storage: BaseStorage, study_name: str) -> AbstractContextManager[Any]:
        return self._lock

    def state_lock(self) -> AbstractContextManager[Any]:
        return nullcontext()


def in_memory() -> RetryingStorage:
    return RetryingStorage(InMemoryDatabase())
