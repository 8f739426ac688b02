"""What all tests share."""

import os
import signal
from collections.abc import Iterator

import pytest
from postgres import PostgresServer, new_server, why_not

# Before torch is imported: tests that run beside each other must not spin on the cores for long.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A shell that runs the tests in the background has them, and every process that they start, ignore Ctrl-C: which is tested. So
# does nohup with a lost terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
