"""What a command is doing, for a person who waits: a spinner on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status

PATIENCE = 0.5  # seconds before anything is shown: most commands are done by then
LINE_PATIENCE = 2.0  # seconds before the first line where there is no terminal


class Progress:
    """`with Progress("starting web") as progress: progress("a step")`; writes to standard error only."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._begun = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._status: Status | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE if self._terminal else LINE_PATIENCE, self._show)
        self._timer.daemon = True
        self._ended = False
        self._shown = ""

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __call__(self, text: str) -> None:
        """Say what is being done now."""
        with self._lock:
            self._text = text
            if self._status:
                self._status.update(text)
            elif not self._terminal and time.monotonic() - self._begun > LINE_PATIENCE:
                self._line()

    def _show(self) -> None:
        with self._lock:
            if self._ended:
                return
            if self._terminal:
                from rich.console import Console

                self._status = Console(stderr=True).status(self._text)
                self._status.start()
            else:
                self._line()

    def _line(self) -> None:
        if self._shown != self._text:
            self._shown = self._text
            print(f"{self._text} …", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the spinner away: what follows is for standard output."""
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._status:
                self._status.stop()
                self._status = None
