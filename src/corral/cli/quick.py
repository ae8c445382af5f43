"""The short way for `corral ps`, the command that is typed most and watched in loops.

The command-line library takes longer to load than the answer takes to come. So the plain forms of
`ps` are read here, and everything else, a mistake too, is left to `ps.py`, which knows the same options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Choices(TypedDict):
    """The arguments of `listing.show`."""

    everything: bool
    addresses: bool
    quiet: bool
    uri: str | None
    as_json: bool


def ps(arguments: Sequence[str]) -> Choices | None:
    """The arguments of `listing.show` that `arguments` (those after `corral`) mean, or None when they are not plain."""
    chosen = Choices(everything=False, addresses=False, quiet=False, uri=None, as_json=False)
    words = iter(arguments)
    named = False
    for word in words:
        option, _, value = word.partition("=")
        if word == "ps" and not named:
            named = True
        elif word in ("-a", "--all") and named:
            chosen["everything"] = True
        elif word in ("-A", "--addresses") and named:
            chosen["addresses"] = True
        elif word in ("-q", "--quiet") and named:
            chosen["quiet"] = True
        elif option in ("-c", "--connect") and (value := value or next(words, "")):
            chosen["uri"] = value
        elif option == "--format" and named and (value := value or next(words, "")) in ("json", "table"):
            chosen["as_json"] = value == "json"
        else:
            return None
    return chosen if named else None
