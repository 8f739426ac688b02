"""Opens storages, and loads studies from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.urls import DEFAULT_STORAGE, storage_url

if TYPE_CHECKING:
    from tradeoff.studies.storage.databases import Database
    from tradeoff.studies.storage.retry_policy import RetryPolicy
    from tradeoff.studies.storage.retrying import RetryingStorage
    from tradeoff.studies.storage.stored_study import StoredStudy

# Among a study's user attributes: how its trials are stored.
SCHEMA_ATTRIBUTE = "tradeoff_schema"
SCHEMA = 2
# The last release that stored trials in another way.
LAST_BEFORE = "0.1.0"


def open_storage(url: str = DEFAULT_STORAGE, *, create: bool = True, retry: "RetryPolicy | None" = None) -> "RetryingStorage":
    """Open a study storage.

    Args:
        url: A SQLAlchemy URL, the path of a SQLite file, or the `grpc://HOST:PORT` of Optuna's gRPC proxy.
        create: Whether a SQLite file that is missing is created; commands that read say no.
        retry: How a storage that does not answer is waited for, now and later: for a process that joins others in the middle of
            a study. Without it that is an error at once, as a user wants who has mistyped it.

    Raises:
        TradeoffError: It can't be opened: the file is missing or not a database, the directory can't be written, the driver is
            not installed, the server does not answer.
        KeyboardInterrupt: The user ended the wait.
    """
    from tradeoff.studies.storage.retrying import RetryingStorage

    return RetryingStorage(_database(storage_url(url)), create=create, retry=retry)


def _database(url: str) -> "Database":
    if url.startswith("grpc:"):
        try:
            from tradeoff.studies.storage.grpc_proxy import GrpcProxy
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in ("grpc", "google"):
                raise
            raise TradeoffError(
                f"{url} needs the Python packages grpcio and protobuf, which are not installed: pip install 'tradeoff[grpc]'"
            ) from error
        return GrpcProxy(url)
    from tradeoff.studies.storage.databases import SqlDatabase
    from tradeoff.studies.storage.sqlite import SqliteDatabase

    return SqliteDatabase(url) if url.startswith("sqlite") else SqlDatabase(url)


def load_study(name: str | None, storage: "RetryingStorage") -> "StoredStudy":
    """Load a study that `tradeoff` created.

    Args:
        name: The study's name; None for the one created last.
        storage: What `open_storage` returned.

    Raises:
        TradeoffError: There is no such study, it was not created by `tradeoff`, or by a version that stored trials in another
            way.
    """
    from tradeoff.studies.storage.databases import no_study_in
    from tradeoff.studies.storage.stored_study import StoredStudy

    studies = sorted(storage.get_all_studies())  # in the order of their creation
    ours = {str(study.study_name): study.user_attrs for study in studies if "config" in study.user_attrs}
    if not ours:
        raise TradeoffError(no_study_in(storage.place))
    if name is None:
        name = list(ours)[-1]
    elif name not in ours:
        there_are = f"there are {', '.join(ours)}"
        if name in {study.study_name for study in studies}:
            raise TradeoffError(f"the study {name!r} in {storage.place} was not created by tradeoff; {there_are}")
        raise TradeoffError(f"no study {name!r} in {storage.place}; {there_are}")
    check_schema(name, ours[name])
    return StoredStudy(name, storage)


def check_schema(name: str, attributes: Mapping[str, Any]) -> None:
    """Refuse a study whose trials another version of tradeoff stored in another way.

    Raises:
        TradeoffError: It is one.
    """
    if (schema := attributes.get(SCHEMA_ATTRIBUTE, 1)) == SCHEMA:
        return
    if not isinstance(schema, int):
        raise TradeoffError(f"the study {name!r} is damaged: its {SCHEMA_ATTRIBUTE} must be {SCHEMA}; choose another name")
    version = attributes.get("tradeoff_version", "an unknown version")
    remedy = (
        f"{LAST_BEFORE} is the last version that reads it (pip install tradeoff=={LAST_BEFORE})"
        if schema < SCHEMA
        else f"install that version (pip install tradeoff=={version})"
    )
    raise TradeoffError(
        f"the study {name!r} was created by tradeoff {version}, which stores trials differently:"
        f" {remedy}; or choose another name"
    )
