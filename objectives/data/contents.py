"""What a job's files hold, as short fingerprints: what was measured is of that, whatever the files are called.

A fingerprint is a size and a SHA-256, so neither a new path nor a new date is a change, and a changed label is one.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.job.sent_function import received
from tradeoff.objectives.job.settings import EMBEDDED, BuiltInJob, gguf_file, local_path

BUILD = "build"
_ROWS_AT_ONCE = 10_000


def file_fingerprint(path: Path) -> str:
    """Return the fingerprint of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stat().st_size} bytes, sha256 {digest}"


def folder_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a model's directory: of the names and the contents of its files."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}: {file_fingerprint(path)}\n".encode())
    return f"{len(paths)} files, sha256 {digest.hexdigest()}"


def table_fingerprint(table: Any) -> str:
    """Return the fingerprint of a `datasets.Dataset`: of its values, since the hub's files may be packed in another way."""
    digest = hashlib.sha256()
    for batch in table.with_format(None).iter(batch_size=_ROWS_AT_ONCE):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return f"{len(table)} rows, sha256 {digest.hexdigest()}"


def short_hash(depends: Mapping[str, Any]) -> str:
    """Return a hash of plain values, short enough for the name of what depends on them."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def local_contents(job: BuiltInJob) -> dict[str, str]:
    """Return the fingerprints of what a job reads here: `train`, `eval` if that is another file, and a local `model`."""
    model = local_path(job.model)
    contents = {"model": folder_fingerprint(model)} if job.model != EMBEDDED and os.path.isdir(model) else {}
    if gguf_file(job.model) is not None and os.path.isfile(model):
        contents["model"] = file_fingerprint(model)
    if not job.is_local_file:
        return contents
    names = {"train": job.dataset, "eval": job.eval_dataset if job.evaluates else None}
    paths = {part: local_path(name) for part, name in names.items() if name is not None}
    return contents | {part: file_fingerprint(path) for part, path in paths.items() if os.path.isfile(path)}


def custom_contents(job: CustomJob) -> dict[str, str]:
    """Return the fingerprints of the files and models that `kwargs` name, as `kwargs.NAME`, and of the source of `build`."""
    contents = {}
    for name, value in job.kwargs.items():
        try:
            path = Path(value).expanduser() if isinstance(value, str) and value else None
            if path is not None and path.is_file():
                contents[f"kwargs.{name}"] = file_fingerprint(path)
            elif path is not None and (path / "config.json").is_file():
                contents[f"kwargs.{name}"] = folder_fingerprint(path)
        except (OSError, ValueError, RuntimeError):
            continue  # a text that no file can be called, or a file that is not ours to read
    if (fingerprint := code_fingerprint(job)) is not None:
        contents[BUILD] = fingerprint
    return contents


def code_fingerprint(job: CustomJob) -> str | None:
    """Return the fingerprint of the source of `build`, which was imported or sent; None where there is none."""
    if job.is_sent:
        return None if (function := received()) is None else function.fingerprint
    source = getattr(sys.modules.get(job.build.partition(":")[0]), "__file__", None)
    return None if source is None else file_fingerprint(Path(source))


def named(job: BuiltInJob | CustomJob, part: str) -> str:
    """Return the name that the job gives to a part of its contents: `reviews.csv` for `train`."""
    if isinstance(job, CustomJob):
        return str(job.kwargs.get(part.removeprefix("kwargs."), part))
    names: Mapping[str, str | None] = {
        "train": job.dataset,
        "eval": job.eval_dataset or f"{job.dataset} ({job.eval_split})",
        "model": job.model,
    }
    return names.get(part) or part.removeprefix("model ")  # one of several
