"""`tradeoff worker`: joins a study that exists."""

import typer

from tradeoff.studies.cli.options import (
    Build,
    OwnStudyFile,
    StorageUrl,
    StudyName,
    Timeout,
    TrustRemoteCode,
    Workers,
    code_and_study,
    results_of,
)
from tradeoff.studies.execution.display import terminal_display
from tradeoff.studies.execution.interrupts import run_to_end
from tradeoff.studies.results.ending import nothing_completed
from tradeoff.studies.storage.urls import DEFAULT_STORAGE
from tradeoff.studies.workers.run import join_study


def worker(
    name: StudyName = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    workers: Workers = None,
    timeout: Timeout = None,
    build: Build = None,
    trust_remote_code: TrustRemoteCode = False,
    study_file: OwnStudyFile = None,
) -> None:
    """Work on an existing study beside other workers, on this machine or elsewhere, until it is complete.

    Everything is read from the storage; code that it names runs only if you name it too. A worker can join and leave at any
    time: on SIGTERM or Ctrl-C it cleans up, and others rerun the trial that it had begun.

    \b
    Example:
      tradeoff worker
      TRADEOFF_STORAGE=postgresql://ada:secret@db/studies tradeoff worker reviews
      tradeoff worker reviews --storage @/run/secrets/storage --workers 4
      tradeoff worker stars --build stars:build
    """
    display = terminal_display()
    allowed, chosen = code_and_study(build, trust_remote_code, study_file, name=name)
    status = run_to_end(
        lambda: join_study(chosen, storage=storage, workers=workers, timeout_s=timeout, display=display, allowed=allowed),
        display.message,
    )
    if status == 0:
        results = results_of(chosen, storage)
        # While others still run trials, something may complete.
        is_over = all(record.outcome is not None for record in results.records)
        if is_over and (why := nothing_completed(results)) is not None:
            display.message(f"tradeoff: {why}")
            status = 1
    raise typer.Exit(status)
