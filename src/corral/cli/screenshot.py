"""`corral screenshot`: what a machine's screen shows now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corral.cli.options import Connect, Name
from corral.cli.target import find, run
from corral.errors import InvalidArgument


def screenshot(
    name: Name,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to put the PNG; - is standard output.")],
    screen: Annotated[int, typer.Option(metavar="N", min=0, help="Which screen, over all cards and heads.")] = 0,
    connect: Connect = None,
) -> None:
    """Save a picture of a machine's screen, as PNG.

    corral screenshot web screen.png
    """
    if file != "-" and Path(file).suffix.lower() not in (".png", ""):
        raise InvalidArgument(f"{file}: the picture is a PNG", hint=f"call it {Path(file).with_suffix('.png')}")
    run(_save(connect, name, file, screen))


async def _save(uri: str | None, name: str, file: str, screen: int) -> None:
    from corral.cli.copy import output
    from corral.client.host import connect
    from corral.client.picture import png

    async with connect(uri) as host:
        domain = await find(host, name)
        _, picture = await domain.screenshot(screen)
    with output(file, f"{domain.name}.png") as out:
        out.write(png(picture))
