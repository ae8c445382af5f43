"""The command line, a client of the daemon like any other. Each command's module is imported when it is named."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command in `sys.argv`; its exit status."""
    if "ps" in sys.argv and "_CORRAL_COMPLETE" not in os.environ:
        from corral.cli import quick

        if (chosen := quick.ps(sys.argv[1:])) is not None:
            from corral.cli.errors import guarded
            from corral.cli.listing import show

            return guarded(lambda: show(**chosen))
    elif "daemon" in sys.argv[1:2]:
        from corral.cli import quick

        if (options := quick.daemon(sys.argv[1:])) is not None:
            from corral.daemon import Options, run

            return run(Options(**options))
    from corral.cli.app import execute

    return execute()
