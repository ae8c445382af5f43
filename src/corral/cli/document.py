"""`corral show` and `corral define`: a machine's document in three notations."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.options import Connect, Name
from corral.cli.target import find, run
from corral.errors import InvalidArgument


class Notation(StrEnum):
    """How a document is written."""

    xml = "xml"
    json = "json"
    yaml = "yaml"


def show(
    name: Name,
    notation: Annotated[Notation, typer.Option("--format", help="xml, json or yaml.")] = Notation.xml,
    inactive: Annotated[
        bool, typer.Option("--inactive", help="What the next start uses, not the present run.")
    ] = False,
    secure: Annotated[bool, typer.Option("--secure", help="With passwords.")] = False,
    connect: Connect = None,
) -> None:
    """Show a machine's document."""
    xml = run(_xml(connect, name, inactive, secure))
    sys.stdout.write(written(xml, notation))


async def _xml(uri: str | None, name: str, inactive: bool, secure: bool) -> str:
    from corral.client.host import connect

    async with connect(uri) as host:
        return await (await find(host, name)).xml(inactive=inactive, secure=secure)


def written(xml: str, notation: Notation) -> str:
    """The document `xml` in another notation, ending with a newline."""
    if notation is Notation.xml:
        return xml if xml.endswith("\n") else xml + "\n"
    from corral.model.domain import Domain

    text = Domain.from_xml(xml).to_json()
    if notation is Notation.json:
        import json

        return json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    import json

    import yaml

    return str(yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True, width=1 << 20))


def read(text: str, *, origin: str) -> str:
    """The XML of a document in any notation, told apart by its first character; InvalidArgument names `origin`."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if not start:
        raise InvalidArgument(f"{origin} is empty")
    if start == "<":
        return text
    import json

    from corral.model.domain import Domain

    try:
        data = json.loads(text) if start == "{" else _yaml(text)
    except ValueError as error:
        what = "no JSON" if start == "{" else "neither XML nor JSON nor YAML"
        raise InvalidArgument(f"{origin} is {what}: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InvalidArgument(
            f"{origin} is no machine's document: it is {'a list' if isinstance(data, list) else 'plain text'}",
            hint="corral show NAME --format yaml shows what one looks like",
        )
    return Domain.from_data(data).to_xml(secure=True)


def _yaml(text: str) -> object:
    """What YAML says, with JSON's kinds of values only; ValueError for what is none."""
    import json

    import yaml

    try:
        return json.loads(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(str(error)) from error


def define(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="XML, JSON or YAML; - is standard input.")],
    validate: Annotated[bool, typer.Option(help="Check it against libvirt's schema first.")] = True,
    connect: Connect = None,
) -> None:
    """Keep a machine's document: a new machine, or the next start of the one with its name and UUID."""
    if str(file) == "-":
        text, origin = sys.stdin.read(), "standard input"
    else:
        origin = str(file)
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{file}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    print(run(_define(connect, read(text, origin=origin), validate)))


async def _define(uri: str | None, xml: str, validate: bool) -> str:
    from corral.client.host import connect

    async with connect(uri) as host:
        return (await host.define(xml, validate=validate)).name
