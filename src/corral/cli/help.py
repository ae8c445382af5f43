"""How a command's `--help` reads: the words of a manual page, not the command-line library's, which are Python's.

`NAME…` and not `{NAME…}...`, `N` and not `<int range>`, `at least 1` and not `x>=1`.
"""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

#: What the library writes for a value's type, and the word for such a value.
_TYPES = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "PATH"}
_TYPE = re.compile(r"<([^<>]+)>(\.\.\.)?$")
_NOTE = re.compile(r"  \[([^\[\]]*)\]$")
_RANGE = re.compile(r"(?:(?P<low>[\d.]+)<=)?x(?:(?P<sign>[<>])=(?P<bound>[\d.]+))")

_DEFAULT = re.compile(r"default: \(([^()]*)\)")
_WHOLE = re.compile(r"\b(\d+)\.0\b(?!\.)")


class Command(TyperCommand):
    """A command whose help is for people."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.options_metavar or "", *(_shown(each) for each in self.params if _is_argument(each))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments = [(_shown(each), _told(each, ctx)) for each in self.params if _is_argument(each)]
        records = [each.get_help_record(ctx) for each in self.get_params(ctx) if not _is_argument(each)]
        options = [(_named(name), _noted(text)) for name, text in filter(None, records)]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _shown(argument: Any) -> str:
    """As its function names it: `NAME`, `[NAME…]`; in brackets when it may be left out."""
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _told(argument: Any, ctx: Any) -> str:
    """What it is, with the words that it may be where only some may."""
    kind = _TYPE.match(argument.display_type(ctx))
    words = f"  [{kind[1]}]" if kind and "|" in kind[1] else ""
    return f"{argument.help or ''}{words}"


def _named(name: str) -> str:
    """An option and its value: `--cpus N`, `--format table|json`."""
    return _TYPE.sub(lambda found: _TYPES.get(found[1], found[1]), name)


def _noted(text: str) -> str:
    """An option's help, what is said in brackets behind it in plain words."""
    note = _NOTE.search(text)
    if note is None:
        return text
    words = _DEFAULT.sub(r"default: \1", _RANGE.sub(_bounds, _WHOLE.sub(r"\1", note[1])))
    return f"{text[: note.start()]}  [{words}]"


def _bounds(found: re.Match[str]) -> str:
    low, bound = (None if end is None else f"{float(end):g}" for end in (found["low"], found["bound"]))
    if low is not None:
        return f"{low} to {bound}"
    return f"at least {bound}" if found["sign"] == ">" else f"at most {bound}"
