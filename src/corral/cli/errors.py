"""How an error ends a command: one line, and a second one when there is something to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corral.errors import CorralError, InvalidConnection, NoConnect


def complain(error: CorralError, about: str = "") -> None:
    """Print what went wrong, and what to do about it, on standard error."""
    text = str(error)
    if error.hint:
        text = text.removesuffix(f"; {error.hint}")
    hint = error.hint
    if isinstance(error, NoConnect | InvalidConnection):
        text = error.detail or text  # their kinds are libvirt's words for "no daemon" and "the daemon went away"
    if isinstance(error, InvalidConnection) and not hint:
        hint = "machines run on; another daemon may have taken over: see corral ps before you try it again"
    print(f"corral: {about}{': ' if about else ''}{text}", file=sys.stderr)
    if hint:
        print(f"        {hint}", file=sys.stderr)


@contextmanager
def hinted(words: str, hint: str) -> Iterator[None]:
    """Give an error that has `words` in it this hint; the daemon's own is for whoever writes a document."""
    try:
        yield
    except CorralError as error:
        if words not in error.detail:
            raise
        raise type(error)(error.detail.partition("; ")[0], hint=hint) from error


def guarded(body: Callable[[], object]) -> int:
    """Run `body`; the exit status: its own when it returns an int, else 0; 1 for an error, 130 for Ctrl-C."""
    try:
        status = body()
        sys.stdout.flush()
    except CorralError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left; Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0
