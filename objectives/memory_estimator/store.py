"""Stores traces on disk, by everything that decides them: the model's configuration, the settings, the libraries' versions.

A trace is plain numbers, so an estimate can be repeated without building the model.
"""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import TraceSettings

# To be raised when what is traced or how it is stored changes.
_FORMAT = 2
# Writing takes seconds: a partial file this old was left by a killed process.
_OLDEST_PART_S = 3600.0


class TraceStore:
    """Traces of one model under one set of settings, in memory and, with a directory, on disk.

    Args:
        config: The model's configuration as plain data.
        settings: How training runs.
        folder: The directory to store traces in; None to keep them in memory only.
    """

    def __init__(self, config: Mapping[str, Any], settings: TraceSettings, folder: Path | None) -> None:
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
        self._memory: dict[str, Segments] = {}
        if folder is not None:
            _remove_old_parts(folder)

    def get(self, key: str) -> Segments | None:
        """Return the trace under a key, or None."""
        if key in self._memory or self._folder is None:
            return self._memory.get(key)
        path = self._path(self._folder, key)
        if not path.is_file():
            return None
        with gzip.open(path, "rt", encoding="utf-8") as file:
            self._memory[key] = _decode(json.load(file))
        return self._memory[key]

    def put(self, key: str, segments: Segments) -> None:
        """Store a trace; another process may write the same one at the same time."""
        self._memory[key] = segments
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8", compresslevel=1) as file:
                json.dump(_encode(segments), file)
            os.replace(temporary, self._path(self._folder, key))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"{self._name}-{key}.json.gz"


def _remove_old_parts(folder: Path) -> None:
    for part in folder.glob("*.part"):
        # Another process may remove it at the same time, and another user's can't be removed.
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _OLDEST_PART_S:
                part.unlink()


def _encode(segments: Segments) -> dict[str, list[list[Any]]]:
    return {name: [list(event) for event in events] for name, events in segments.as_mapping().items()}


def _decode(stored: Mapping[str, list[list[Any]]]) -> Segments:
    categories = {category.value: category for category in Category}
    return Segments(
        **{
            name: tuple(Event(key, num_bytes, categories.get(category)) for key, num_bytes, category in events)
            for name, events in stored.items()
        }
    )
