"""A new password: typed twice by a person, or a line of standard input."""

from __future__ import annotations

import sys

from corral.errors import InvalidArgument


def asked(whose: str) -> str:
    """The new password of `whose`; InvalidArgument for two that are not the same, or for none."""
    if sys.stdin.isatty():
        from getpass import getpass

        text = getpass(f"New password for {whose}: ")
        if text != getpass("Again: "):
            raise InvalidArgument("the two are not the same")
    else:
        text = sys.stdin.readline().rstrip("\n")
    if not text:
        raise InvalidArgument("there is no password", hint="type one, or write it to standard input")
    return text
