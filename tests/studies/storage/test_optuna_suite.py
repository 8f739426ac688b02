import pytest
from optuna.testing.pytest_storages import StorageTestCase

from tradeoff.studies.storage.opening import open_storage


class TestOurs(StorageTestCase):
    @pytest.fixture(params=["sqlite", "postgresql"])
    def storage(self, request, tmp_path):
        url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
        return open_storage(url)
