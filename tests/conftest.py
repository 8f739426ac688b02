"""What all tests share."""

import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from postgres import PostgresServer, new_server, why_not

# Before torch is imported: tests that run beside each other must not spin on the cores for long.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A shell that runs the tests in the background has them, and every process that they start, ignore Ctrl-C: which is tested. So
# does nohup with a lost terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Optuna reads its ten revisions three times whenever it makes a database, which takes longer than all else that it does then.
_revisions: dict[str | None, ScriptDirectory] = {}
_read_revisions = ScriptDirectory.from_config


def _read_once(config: Config) -> ScriptDirectory:
    place = config.get_main_option("script_location")
    if place not in _revisions:
        _revisions[place] = _read_revisions(config)
    return _revisions[place]


ScriptDirectory.from_config = _read_once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files of few tests, which are the long ones: none is left for one of two processes at the end."""
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: sizes[item.path])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, one for all tests; a test that stops it starts it again."""
    if (reason := why_not()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    server = new_server()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of a new database, with its password."""
    postgres.start()
    return postgres.new_database()
