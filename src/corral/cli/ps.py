"""`corral ps`."""

from __future__ import annotations

from typing import Annotated

import typer

from corral.cli.listing import show
from corral.cli.options import Connect, Format, Output


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that are off.")] = False,
    addresses: Annotated[bool, typer.Option("--addresses", "-A", help="Ask the guests for their addresses.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only names.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """List the machines that run, or all of them."""
    show(everything=everything, addresses=addresses, quiet=quiet, uri=connect, as_json=output is Output.json)
