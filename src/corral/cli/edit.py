"""`corral edit`: change a document in one's editor; a text that was written is lost only to who gave it up."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.document import Notation, read, written
from corral.cli.errors import complain
from corral.cli.options import Connect, Name
from corral.cli.target import find, run
from corral.errors import CorralError, InvalidArgument, OperationAborted, OperationFailed


def edit(
    name: Name,
    notation: Annotated[Notation, typer.Option("--format", help="xml, json or yaml.")] = Notation.xml,
    connect: Connect = None,
) -> None:
    """Change a machine's document in $VISUAL or $EDITOR. It is checked before it is kept, for the next start."""
    before = run(_current(connect, name))
    text = written(before, notation)
    draft = _draft(name, notation, text)
    try:
        _edit_until_valid(connect, name, draft, before, text)
    except (Dropped, EditorFailed):
        draft.unlink(missing_ok=True)
        raise
    except BaseException:
        # What a person wrote and did not give up is worth more than a tidy directory.
        with suppress(FileNotFoundError):
            if draft.read_bytes() == text.encode():
                draft.unlink()
            else:
                print(f"corral: your text is in {draft}", file=sys.stderr)
        raise
    draft.unlink(missing_ok=True)


class Dropped(OperationAborted):
    """The person who wrote the text has no more use for it."""


class EditorFailed(OperationFailed):
    """The editor did not run, or ended with an error: what it left is not meant."""


def _edit_until_valid(uri: str | None, name: str, draft: Path, before: str, text: str) -> None:
    """Return when the draft was taken or nothing was changed; the daemon's error where nobody can be asked again."""
    while True:
        _open_editor(draft)
        try:
            after = _written(draft)
            if after == text:
                print(f"{name} is unchanged")
                return
            xml = read(after, origin="the text")
            print(f"{run(_replace(uri, name, xml, before))} is changed; a running machine uses it at its next start")
            return
        except EditorFailed:
            raise
        except CorralError as error:
            if not sys.stdin.isatty():
                raise
            complain(error)
            if not typer.confirm("Edit it again?", default=True, err=True):
                raise Dropped("the document was not changed") from error


def _written(draft: Path) -> str:
    try:
        return draft.read_text()
    except FileNotFoundError as error:
        raise EditorFailed("the editor removed the text") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument("what the editor wrote is not text") from error


def _draft(name: str, notation: Notation, text: str) -> Path:
    descriptor, path = tempfile.mkstemp(
        prefix=f"corral-{name.replace('/', '_')}-", suffix=f".{notation.value}", text=True
    )
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return Path(path)


def _open_editor(draft: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(command), str(draft)], check=False).returncode
    except (OSError, ValueError) as error:
        raise EditorFailed(f"the editor '{command}' could not be run", hint="set EDITOR") from error
    if status:
        raise EditorFailed(f"the editor '{command}' ended with status {status}; nothing was changed")


async def _current(uri: str | None, name: str) -> str:
    from corral.client.host import connect

    async with connect(uri) as host:
        return await (await find(host, name)).xml(inactive=True, secure=True)


async def _replace(uri: str | None, name: str, xml: str, before: str) -> str:
    """Define `xml` unless the machine's document is no longer `before`; the machine's name."""
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        if await domain.xml(inactive=True, secure=True) != before:
            raise OperationFailed(f"{domain.name} was changed by someone else meanwhile")
        return (await host.define(xml, validate=True)).name
