"""The command's standard streams: what can't be written any more ends the command in order, and not in a traceback.

A full disk, a reader that is gone (`| head -1`) or a terminal that was closed is noticed wherever something is written, in the
middle of a trial too. So a write never fails. The first one that can't be done asks the command to stop, as Ctrl-C does.

What is printed is shown, and does nothing to a terminal. Only rich draws on it, through a stream of its own.
"""

import _thread
import errno
import io
import os
import signal
import sys
from typing import Any, TextIO

from tradeoff.studies.storage.urls import masked_words
from tradeoff.studies.visible import visible

BROKEN_PIPE_STATUS = 1


def say(line: str, *, file: TextIO | None = None) -> None:
    """Print one line, whatever line breaks are in it; on the output stream by default."""
    print(visible(line), file=file, flush=True)


class StandardStreams:
    """Takes the place of `sys.stdout` and `sys.stderr`.

    Attributes:
        error: The error that ended the output; None as long as all of it was written.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._is_ending = False
        _open_closed_descriptors()
        # Whoever has replaced a stream reads it.
        if sys.stdout is sys.__stdout__:
            sys.stdout = self._guarded(sys.stdout, 1)
        if sys.stderr is sys.__stderr__:
            sys.stderr = self._guarded(sys.stderr, 2)

    def end(self, status: int, error: str | None = None) -> int:
        """Write what is left, and say what could not be written.

        Args:
            status: The command's exit status.
            error: A sentence that says what has ended the command.

        Returns:
            The exit status: 1 if a reader was gone, 2 if anything else kept the output from being written.
        """
        self._is_ending = True
        if error is not None:
            say(f"tradeoff: {masked_words(error)}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if error is not None or self.error is None:
            return status
        if self.error.errno == errno.EPIPE:  # it has read enough: no error of the user's
            return BROKEN_PIPE_STATUS
        if self.error.errno == errno.EIO:  # the terminal is gone, and who would read a sentence with it
            return status or BROKEN_PIPE_STATUS
        print(
            f"tradeoff: the output can't be written: {os.strerror(self.error.errno or 0)}; direct it elsewhere and rerun the"
            " same command to resume; results already saved are kept",
            file=sys.stderr,
            flush=True,
        )
        return 2

    def lost(self, error: OSError) -> None:
        """Note that a stream has ended, and ask the command to stop; further output is left out."""
        is_first, self.error = self.error is None, self.error or error
        if is_first and not self._is_ending:
            # SIGHUP stops in order and never immediately; it has no handler where `nohup` has it ignored.
            is_handled = callable(signal.getsignal(signal.SIGHUP))
            _thread.interrupt_main(signal.SIGHUP if is_handled else signal.SIGTERM)

    def _guarded(self, stream: TextIO | None, descriptor: int) -> TextIO:
        raw = _Descriptor(descriptor, self)
        is_unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through
        return _VisibleStream(
            raw if is_unbuffered else io.BufferedWriter(raw),
            masks=descriptor == 2,
            encoding=None if stream is None else stream.encoding,
            errors="backslashreplace",  # a name that the terminal can't show must not end a study
            line_buffering=descriptor == 2 or raw.isatty(),
        )


class _VisibleStream(io.TextIOWrapper):
    """A text stream that escapes control characters, except line breaks and tabs.

    Args:
        buffer: Where the text goes.
        masks: Mask passwords in URLs too: an error that is not ours may quote one.
        **options: Those of `io.TextIOWrapper`.

    Attributes:
        drawing: A stream to the same place for what rich makes, which holds control characters.
    """

    def __init__(self, buffer: Any, *, masks: bool, **options: Any) -> None:
        # Neither stream keeps text back, or what is written to both would change places.
        super().__init__(buffer, write_through=True, **options)
        self.drawing = io.TextIOWrapper(buffer, write_through=True, **options)
        self._masks = masks

    def write(self, text: str) -> int:
        # A library's progress bar begins with a carriage return, and nothing of ours is in that line.
        start = text[: text.startswith("\r")]
        shown = visible(text[len(start) :], keep="\n\t")
        super().write(start + (masked_words(shown) if self._masks else shown))
        return len(text)


class _Descriptor(io.FileIO):
    """A file descriptor whose writes never fail."""

    def __init__(self, descriptor: int, streams: StandardStreams) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._streams, self._is_lost = streams, False

    def write(self, data: "bytes | bytearray | memoryview") -> int | None:  # type: ignore[override]
        if not self._is_lost:
            try:
                return super().write(data)
            except OSError as error:
                self._is_lost = True
                self._streams.lost(error)
        return memoryview(data).nbytes


def _open_closed_descriptors() -> None:
    """Open the null device where a standard stream is closed: a database or a socket must not be taken for one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
