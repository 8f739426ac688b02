import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from stored_studies import TRIALS, make_study

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import masked, masked_words, storage_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:secret@db.example/studies", "postgresql://ada:***@db.example/studies"),
        ("postgresql+psycopg://ada:se@cr:e/t?x@db:5432/s", "postgresql+psycopg://ada:***@db:5432/s"),
        ("mysql://ada@db/s", "mysql://ada@db/s"),
        (
            "postgresql://db/s?user=ada&password=secret&sslmode=require",
            "postgresql://db/s?user=ada&password=***&sslmode=require",
        ),
        ("sqlite:///tradeoff.db", "sqlite:///tradeoff.db"),
        ("tradeoff.db", "tradeoff.db"),
        ("grpc://[::1]:13000", "grpc://[::1]:13000"),
        ("postgresql://ada:p@ss/w0rd@h", "postgresql://ada:***@h"),
        ("postgresql:/ada:pw@h/db", "postgresql:***@h/db"),
        ("ada:pw@h/db", "ada:***@h/db"),
        ("ada:p://w@h/db", "ada:***@h/db"),
        ("//ada:pw@h", "//ada:***@h"),
        ("postgresql://:pw@h", "postgresql://:***@h"),
        ("postgresql://ada%3Apw%40h/db", "postgresql://ada:***@h/db"),
        ("postgresql://ada:p/w/db", "postgresql://ada:***"),
        ("postgresql://h/db?sslpassword=pw&p%61ssword=pw", "postgresql://h/db?sslpassword=***&p%61ssword=***"),
        ("postgresql://h/db?pasword=p&w&user=ada", "postgresql://h/db?pasword=***&user=ada"),
        ("jdbc:postgresql://h/db?user=ada&password=pw", "jdbc:postgresql://h/db?user=ada&password=***"),
        ("host=h user=ada password = 'p w'", "host=h user=ada password = ***"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert masked(url) == masked(shown) == shown
    if " " not in url:
        assert masked_words(f"a: it's (at {url} now") == f"a: it's (at {shown} now"


def test_a_long_word_is_masked_in_no_time() -> None:
    text = "pass:a=" * 100_000
    assert masked_words(text).endswith("=")
    assert "pass:a" not in masked_words(f"{text}@h")[4:]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:p@ss/w0rd@127.0.0.1:1/db",
        "postgresql:/ada:w0rd@127.0.0.1:1/db",
        "ada:w0rd@127.0.0.1:1/db",
        "@ada:w0rd@127.0.0.1/url",
        "postgresql://ada%3Aw0rd%40h/db",
        "postgresql://ada:w0rd@127.0.0.1:1/db",
        "postgresql://ada:x@127.0.0.1:1/db?pasword=w0rd",
        "postgresql+absent://ada:w0rd@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?port=1&sslpassword=w0rd&sslmode=absent",
        "dbname=db host=127.0.0.1 password=w0rd",
    ],
)
def test_no_error_of_a_storage_quotes_its_password(url: str) -> None:
    with pytest.raises(TradeoffError) as refused:
        open_storage(url)
    assert "w0rd" not in str(refused.value)
    assert "ss" not in re.findall(r"'(\w+)'", str(refused.value))  # what follows an @ is no host


def test_a_bare_path_is_a_sqlite_file() -> None:
    assert storage_url("studies/foo.db") == "sqlite:///studies/foo.db"


def test_a_file_that_holds_the_url_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgres://ada:secret@db/studies\n")
    assert storage_url(f"@{tmp_path}/url") == "postgresql://ada:secret@db/studies"


@pytest.mark.parametrize("content", ["", "a\nb", "@other", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_url_is_refused_without_its_content(content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TradeoffError, match=r"^the file .*/url that --storage names (must hold one line|can't be read)"):
        storage_url(f"@{tmp_path}/url")


def test_a_file_of_the_url_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match="can't be read: No such file"):
        storage_url(f"@{tmp_path}/absent")


def test_the_short_name_of_postgresql_is_understood() -> None:
    assert storage_url("postgres://ada:secret@db/postgres://s") == "postgresql://ada:secret@db/postgres://s"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a URL or the path of a SQLite file, got ''"),
        ("redis://ada:secret@host", r"must be SQLite, PostgreSQL, MySQL or grpc://HOST:13000, got redis://ada:\*\*\*@host"),
        ("grpc://host", "must be named as grpc://HOST:13000 and nothing more, got grpc://host"),
        ("grpc://host:port", "must be named as grpc://HOST:13000 and nothing more"),
        ("grpc://[::1:13000", "must be named as grpc://HOST:13000 and nothing more"),
        ("grpc://host:13000/studies", "must be named as grpc://HOST:13000 and nothing more"),
        ("grpc://ada:secret@host:13000", r"nothing more, got grpc://ada:\*\*\*@host:13000"),
        ("sqlite://", "must be a file, got sqlite://"),
        ("sqlite:///:memory:", "must be a file"),
        ("a?b.db", r"the path of a SQLite file can't hold a '\?', .*, got a\?b\.db; rename it"),
        ("a.db?timeout=5", r"the path of a SQLite file can't hold a '\?'"),
        ("sqlite:///a?b.db", r"options of a SQLite storage, .* timeout, .*, got sqlite:///a\?b\.db; .* must be renamed"),
        ("sqlite:///a?b=c.db", r"options of a SQLite storage"),
        ("sqlite:///a?timeout=5&mode", r"options of a SQLite storage"),
        ("sqlite:///a?", r"options of a SQLite storage"),
        ("a%20b.db", r"must stand for itself, and 'a%20b\.db' is read as 'a b\.db'; rename it"),
        ("sqlite:///%C3%A4.db", r"must stand for itself"),
        (
            "postgresql://ada:se@cret@host/s",
            r"must hold one @, before the host, got .*ada:\*\*\*@host/s; percent-encode .* %40",
        ),
        ("ada:secret@host/s", r"with a password must be a URL such as .*, got ada:\*\*\*@host/s; write sqlite:///FILE"),
        ("postgresql://ada:secret@host:port/s", r"must be a database URL such as .* got postgresql://ada:\*\*\*@host:port/s"),
    ],
)
def test_a_url_that_names_no_storage_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(TradeoffError, match=sentence):
        storage_url(text)


def test_a_sqlite_file_is_made_in_write_ahead_mode_and_kept(tmp_path: Path) -> None:
    make_study(open_storage(f"sqlite:///{tmp_path}/a.db"))
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert len(load_study("stars", open_storage(str(tmp_path / "a.db"), create=False)).trials) == len(TRIALS)


@pytest.mark.parametrize("name", ["a#b.db", "100%.db", "a b&c=d.db", "ä日本.db", "a@b:c;d.db", "a+b{x}.db", "'a'.db"])
@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_the_file_that_a_storage_names_is_the_one_that_is_made(prefix: str, name: str, tmp_path: Path) -> None:
    open_storage(f"{prefix}{tmp_path}/{name}")
    assert {path.name for path in tmp_path.iterdir()} - {f"{name}-wal", f"{name}-shm"} == {name}
    assert storage_url("sqlite:///a.db?timeout=5") == "sqlite:///a.db?timeout=5"


def test_a_command_that_reads_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match=r"no storage .*a\.db"):
        open_storage(str(tmp_path / "a.db"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database at all")
    with pytest.raises(TradeoffError, match=r"notes\.txt is not a SQLite database"):
        open_storage(str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "not a database at all"


def test_a_database_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 200)
    for create in (True, False):
        with pytest.raises(TradeoffError, match=r"cut\.db is not a SQLite database, or it is damaged"):
            open_storage(str(tmp_path / "cut.db"), create=create)


def test_a_database_of_something_else_is_refused_by_a_reader_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(TradeoffError, match=r"no study in sqlite:///.*other\.db; use --storage to name another database"):
        open_storage(str(tmp_path / "other.db"), create=False)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("birds",)]


def test_what_can_not_be_a_database_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(TradeoffError, match=r"pipe\.db must be a file, and is a pipe, a socket or a device"):
        open_storage(str(tmp_path / "pipe.db"), create=False)
    with pytest.raises(TradeoffError, match=r"can't be opened: File name too long; name another file"):
        open_storage(str(tmp_path / ("a" * 300)), create=True)
    for name in ("/dev/zero", str(tmp_path / "pipe.db")):
        with pytest.raises(TradeoffError, match="that --storage names must be a file with text"):
            open_storage(f"@{name}", create=False)


def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TradeoffError, match="is a directory: name a file in it"):
        open_storage(str(tmp_path))
    with pytest.raises(TradeoffError, match="can't be created: there is no directory"):
        open_storage(str(tmp_path / "nowhere" / "a.db"))


def test_a_folder_in_place_of_the_lock_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.db.lock").mkdir()
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    with (
        pytest.raises(
            TradeoffError, match=r"a\.db\.lock must be a file that can be written \(Is a directory\); mend or remove it"
        ),
        storage.lock("a"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TradeoffError, match="can't be opened: unable to open database file; is the directory writable"):
        open_storage(str(tmp_path / "a.db"))


def test_a_server_that_does_not_answer_or_a_missing_driver_is_one_sentence_without_the_password() -> None:
    with pytest.raises(TradeoffError) as caught:
        open_storage("postgresql://ada:secret@127.0.0.1:1/studies")
    assert "secret" not in str(caught.value)
    assert "postgresql://ada:***@127.0.0.1:1/studies" in str(caught.value)


def test_a_driver_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradeoff.studies.storage.urls.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    with pytest.raises(TradeoffError, match=r"needs the Python package tradeoff\[mysql\], which is not installed: pip install"):
        open_storage("mysql://ada:secret@127.0.0.1:1/studies")


def test_a_driver_that_does_not_exist_is_said() -> None:
    with pytest.raises(TradeoffError, match="postgresql\\+nosuch"):
        open_storage("postgresql+nosuch://db/s")


def test_braces_in_a_path_are_taken_as_they_are(tmp_path: Path) -> None:
    make_study(open_storage(str(tmp_path / "{a}.db")))
    assert (tmp_path / "{a}.db").exists()


def test_the_latest_study_is_loaded_when_none_is_named(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.db"))
    for name in ("zebra", "ant"):
        make_study(storage, name=name)
    assert load_study(None, storage).study_name == "ant"
    assert load_study("zebra", storage).study_name == "zebra"


def test_an_unknown_study_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.db"))
    with pytest.raises(TradeoffError, match=r"no study in .*; use --storage"):
        load_study(None, storage)
    make_study(storage, name="zebra")
    make_study(storage, name="ant")
    with pytest.raises(TradeoffError, match=r"no study 'bee' in .*; there are zebra, ant"):
        load_study("bee", storage)


def test_a_study_of_another_program_is_not_taken_for_ours(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.db"))
    make_study(storage, name="ours")
    optuna.create_study(study_name="theirs", storage=storage)
    assert load_study(None, storage).study_name == "ours"
    with pytest.raises(TradeoffError, match=r"'theirs' .* was not created by tradeoff"):
        load_study("theirs", storage)


def test_a_storage_says_where_it_is(tmp_path: Path) -> None:
    study = make_study(open_storage(str(tmp_path / "a.db")))
    assert study.storage.place == f"sqlite:///{tmp_path}/a.db"


WRITER = """
import sys, optuna
sys.path.insert(0, sys.argv[2])
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import masked, storage_url
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(study_name="both", storage=open_storage(sys.argv[1]), load_if_exists=True)
for _ in range(8):
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    for key in range(5):
        trial.set_user_attr(f"k{key}", x)
    study.tell(trial, x)
"""


ADD_A_STUDY = """
import sys, optuna
optuna.create_study(storage="sqlite:///" + sys.argv[1], study_name=sys.argv[2])
print("added", flush=True)
input()
"""


def test_a_storage_that_is_opened_twice_still_sees_what_other_processes_write(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    first = open_storage(path)
    assert first.get_all_studies() == []
    open_storage(path, create=False)
    # The first of the others would think, were the locks of this process gone, that it is the last to close the file.
    for name in ("theirs", "others"):
        command = [sys.executable, "-c", ADD_A_STUDY, path, name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"added\n"
            assert name in [study.study_name for study in first.get_all_studies()]


def test_three_processes_make_and_fill_one_sqlite_file_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    path = str(tmp_path / "shared.db")
    command = [sys.executable, "-c", WRITER, path, root]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate(timeout=200)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    trials = optuna.load_study(study_name="both", storage=open_storage(path, create=False)).trials
    assert [trial.number for trial in trials] == list(range(24))
    assert all(json.dumps(trial.user_attrs["k4"]) == json.dumps(trial.value) for trial in trials)
