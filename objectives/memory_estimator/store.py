"""Stores traces on disk, by everything that decides them: the model's configuration, the settings, the libraries' versions.

A trace is plain numbers, so an estimate can be repeated without building the model. One that can't be read is traced again, and
one that can't be written costs no more than its time.
"""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tradeoff.objectives.memory_estimator.events import Segments
from tradeoff.objectives.memory_estimator.settings import TraceSettings

# To be raised when what is traced or how it is stored changes.
_FORMAT = 7
_SEGMENTS = TypeAdapter(Segments)
# Writing takes seconds: a partial file this old was left by a killed process.
_OLDEST_PART_S = 3600.0


class TraceStore:
    """Traces of one model under one set of settings, in memory and, with a directory, on disk.

    Args:
        config: The model's configuration as plain data.
        settings: How training runs.
        folder: The directory to store traces in; None to keep them in memory only.
        say: Is given a line for the user if a trace can't be read or kept.
    """

    def __init__(
        self, config: Mapping[str, Any], settings: TraceSettings, folder: Path | None, say: Callable[[str], None]
    ) -> None:
        identity = json.dumps(
            {
                "config": {name: value for name, value in config.items() if not name.startswith("_")},
                "settings": asdict(settings),
                "versions": [version("torch"), version("transformers"), _FORMAT],
            },
            sort_keys=True,
            default=str,
        )
        self._name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        self._folder = folder
        self._say = say
        self._is_damage_said = False
        self._memory: dict[str, Segments] = {}
        if folder is not None:
            _remove_old_parts(folder)

    def get(self, key: str) -> Segments | None:
        """Return the trace under a key; None if there is none that can be read."""
        if key in self._memory or self._folder is None:
            return self._memory.get(key)
        path = self._path(self._folder, key)
        try:
            with gzip.open(path) as file:
                self._memory[key] = _SEGMENTS.validate_json(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, EOFError, zlib.error, ValueError) as error:
            if not self._is_damage_said:
                self._say(f"the stored trace {path} can't be read ({type(error).__name__}): what is damaged is made again")
            self._is_damage_said = True
            return None
        return self._memory[key]

    def put(self, key: str, segments: Segments) -> None:
        """Store a trace; another process may write the same one at the same time."""
        self._memory[key] = segments
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.rmtree(path)  # nothing of ours, and a file can't replace it
            _write(segments, path)
        except OSError as error:
            self._say(f"traces can't be kept in {self._folder} ({error.strerror}); mend that, or set TRADEOFF_CACHE")
            self._folder = None

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"{self._name}-{key}.json.gz"


def _remove_old_parts(folder: Path) -> None:
    for part in folder.glob("*.part"):
        # Another process may remove it at the same time, and another user's can't be removed.
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _OLDEST_PART_S:
                part.unlink()


def _write(segments: Segments, path: Path) -> None:
    """Write a file that is either complete or not there."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wb", compresslevel=1) as file:
            file.write(_SEGMENTS.dump_json(segments))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
