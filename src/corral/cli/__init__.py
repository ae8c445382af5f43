"""The command line, a client of the daemon like any other. Each command's module is imported when it is named."""

from __future__ import annotations


def main() -> int:
    """Run the command in `sys.argv`; its exit status."""
    from corral.cli.app import execute

    return execute()
