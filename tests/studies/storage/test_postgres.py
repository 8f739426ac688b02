"""Studies on a real PostgreSQL server."""

import subprocess
import sys
from pathlib import Path

import pytest
from postgres import PostgresServer
from sqlalchemy import event
from stored_studies import TRIALS, make_study

from tradeoff.objectives.measurements.records import read_attributes, store_attributes
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import load_study, open_storage


def test_a_study_is_kept_by_a_real_server_and_read_by_url(postgres_url: str) -> None:
    make_study(open_storage(postgres_url))
    assert len(load_study("stars", open_storage(postgres_url, create=False)).trials) == len(TRIALS)


def test_a_url_without_a_driver_uses_the_one_that_is_installed(postgres_url: str) -> None:
    make_study(open_storage(postgres_url.replace("postgresql+psycopg://", "postgres://")))
    assert len(load_study("stars", open_storage(postgres_url)).trials) == len(TRIALS)


def test_what_was_told_survives_a_crash_of_the_server(postgres: PostgresServer, postgres_url: str) -> None:
    make_study(open_storage(postgres_url))
    postgres.restart(at_once=True)
    assert len(load_study("stars", open_storage(postgres_url)).trials) == len(TRIALS)


def test_the_description_of_a_storage_holds_no_password(postgres: PostgresServer, postgres_url: str) -> None:
    assert postgres.password not in open_storage(postgres_url).place


def test_a_server_that_is_down_is_one_sentence_without_the_password(postgres: PostgresServer, postgres_url: str) -> None:
    postgres.stop()
    with pytest.raises(TradeoffError, match=r"can't be opened: connection .*refused") as caught:
        open_storage(postgres_url)
    postgres.start()
    assert postgres.password not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_that_start_at_once_on_an_empty_database_all_find_their_tables(postgres_url: str, tmp_path: Path) -> None:
    code = f"from tradeoff.studies.storage.opening import open_storage; open_storage({postgres_url!r}).get_all_studies()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3


def test_what_a_trial_measured_is_a_transaction_however_much_it_is(postgres_url: str) -> None:
    study = make_study(open_storage(postgres_url), ())
    trial = study.ask()
    commits: list[object] = []
    event.listen(study.storage.database.engine, "commit", commits.append)
    stored = {"outcome": "completed", "trial_time_s": 1.5, "memory_by_stage_mib": {"probe": 2.0}, "accuracy_source": "measured"}
    store_attributes(trial, stored)
    assert len(commits) == 3  # outcome, sources, measurements
    assert read_attributes(trial.user_attrs) == read_attributes(study.trials[0].user_attrs) == stored


def test_a_database_in_which_nothing_was_run_is_one_sentence_and_gets_no_tables(postgres_url: str) -> None:
    for _ in range(2):
        with pytest.raises(TradeoffError, match=r"no study in postgresql.*:\*\*\*@.*; use --storage to name another"):
            open_storage(postgres_url, create=False)
