"""The formats in which optuna-dashboard keeps notes, plots and files among a study's system attributes.

They are private to it (`optuna_dashboard._note`, `._custom_plot_data`, `.artifact._backend`), and written here directly:
importing it takes seconds, and it cuts a text into dozens of pieces, each a transaction. One piece is one write, so a reader
never sees half a plot while another process writes the same one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Everything that a person writes below this line of a note is theirs. A note without the line belongs to a person altogether.
NOTE_END = "*Kept up to date by tradeoff; what you write below this line stays.*"


@dataclass(frozen=True, kw_only=True)
class DashboardEntries:
    """A study's notes, plots and files; an entry that has not changed is not written again.

    Attributes:
        attributes: The study's system attributes, read once.
        write: Stores a system attribute of the study.
        max_text_length: Characters that an attribute may have; None for any number.
    """

    attributes: Mapping[str, Any]
    write: Callable[[str, Any], None]
    max_text_length: int | None = None

    def save_note(self, text: str, *, trial_id: int | None = None) -> None:
        """Store the note of a trial, or of the study, above the line below which a person writes."""
        prefix = f"dashboard:{'' if trial_id is None else f'{trial_id}:'}note_"
        before = self._text(f"{prefix}str:")
        _, line, kept = before.partition(NOTE_END)
        if before and not line:
            return
        text = f"{text}\n---\n{NOTE_END}{kept}"
        if text != before:
            self._save_text(f"{prefix}str:", text)
            # A version that grows makes the dashboard refuse to overwrite what its user has not seen.
            version = self.attributes.get(f"{prefix}ver", 0)
            self.write(f"{prefix}ver", version + 1 if isinstance(version, int) else 1)

    def save_plot(self, name: str, figure: str) -> None:
        """Store a figure of plotly as JSON."""
        self._save_text(f"dashboard:plot_data:{name}:", figure)

    def has_file(self, trial_id: int, identifier: str) -> bool:
        """Return whether a trial's file is listed."""
        return self._file_key(trial_id, identifier) in self.attributes

    def list_file(self, trial_id: int, identifier: str, name: str) -> None:
        """List a trial's file, which is in the artifact store under its identifier."""
        kind = "text/csv" if name.endswith(".csv") else "text/plain"
        entry = {"artifact_id": identifier, "filename": name, "mimetype": kind, "encoding": None}
        self.write(self._file_key(trial_id, identifier), json.dumps(entry))

    def _file_key(self, trial_id: int, identifier: str) -> str:
        # A trial that has ended takes no more attributes of its own; the dashboard looks among the study's too.
        return f"dashboard:artifacts:{trial_id}:{identifier}"

    def _text(self, prefix: str) -> str:
        pieces: list[str] = []
        while isinstance(piece := self.attributes.get(f"{prefix}{len(pieces)}"), str):
            pieces.append(piece)
        return "".join(pieces)

    def _save_text(self, prefix: str, text: str) -> None:
        """Store a text in as few pieces as possible, and empty what is left of a longer one."""
        if text == self._text(prefix):
            return
        size = self.max_text_length or max(1, len(text))
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        while f"{prefix}{len(pieces)}" in self.attributes:
            pieces.append("")
        for position, piece in enumerate(pieces):
            self.write(f"{prefix}{position}", piece)
