"""Optuna's own tests of storages, on what `open_storage` returns."""

from pathlib import Path

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.retrying import RetryingStorage


class TestStorage(StorageTestCase):
    @pytest.fixture(params=["sqlite", "postgresql"])
    def storage(self, request: pytest.FixtureRequest, tmp_path: Path) -> RetryingStorage:
        url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
        return open_storage(url)
