"""`make bench`: Corral, libvirtd and bare QEMU on this machine in this run; medians, ratios and the targets.

python -m bench [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import corral
from bench import echo, images
from bench.floor import Floor
from bench.measures import LOOKUP, Effort, Figures, Peer, measure
from labs import corrald, libvirtd

BARE = "floor"
OURS, THEIRS = "corral", "libvirtd"


def main() -> int:
    """Measure, print the table, and say which targets were missed; the exit status is 0 whatever the figures."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that the bench works")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    effort = Effort.quick() if options.quick else Effort()
    console = Console(stderr=True)
    # As installed: compiling it at its start leaves the daemon larger for good.
    compileall.compile_dir(str(Path(corral.__file__).parent), quiet=2)
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="cb") as temporary:
        directory = Path(temporary)
        with console.status("") as status:
            results[OURS], results[BARE] = _ours(directory, effort, status.update)
            if reason := libvirtd.missing():
                console.print(f"libvirtd is left out: {reason}")
            else:
                results[THEIRS] = _theirs(directory, effort, status.update)
    Console(width=140).print(_table(results, effort))
    if reason := images.missing():
        console.print(f"the guest's disks are left out: {reason}")
    else:
        with console.status("disks of a guest"):
            shown = images.measured(quick=options.quick)
        Console(width=140).print(shown)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 0


def _ours(directory: Path, effort: Effort, say: Callable[[str], None]) -> tuple[Figures, Figures]:
    home = directory / "c"
    home.mkdir()
    with corrald.running(home) as daemon:
        driver = "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
        peer = Peer(OURS, daemon.pid, daemon.socket, driver)
        bare = Floor(home, lambda: corrald.machines(daemon.state))
        figures = measure(peer, directory, effort, say, bare)
    return figures, bare.medians() | echo.rates(LOOKUP, slices=effort.slices, seconds=effort.seconds)


def _theirs(directory: Path, effort: Effort, say: Callable[[str], None]) -> Figures:
    home = directory / "l"
    home.mkdir()
    with libvirtd.running(home) as daemon:
        peer = Peer(THEIRS, daemon.pid, daemon.socket, daemon.driver)
        return measure(peer, directory, effort, say)


def _table(results: dict[str, Figures], effort: Effort) -> Table:
    table = Table(
        title="medians; floor = bare QEMU to running, a bare socket's answers; ratio = how many times better corral is",
        title_justify="left",
    )
    for heading in ("", BARE, THEIRS, OURS, "ratio", "target", ""):
        table.add_column(heading, justify="left" if not heading or heading == "target" else "right")
    for name, ours in results[OURS].items():
        theirs, bare = results.get(THEIRS, {}).get(name), results[BARE].get(name)
        ratio = None
        if theirs:
            ratio = ours / theirs if _is_rate(name) else theirs / ours
        target, met = _target(name, ours, ratio, bare)
        cells = [_text(name, value) for value in (bare, theirs, ours)]
        table.add_row(
            name, *cells, f"{ratio:.1f}" if ratio else "", target, {True: "met", False: "MISSED", None: ""}[met]
        )
    return table


def _is_rate(name: str) -> bool:
    return "conn." in name


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if _is_rate(name):
        return f"{value:,.0f} /s"
    return f"{value / 1024:.1f} MiB" if name.startswith("memory") else f"{value * 1000:.2f} ms"


def _target(name: str, ours: float, ratio: float | None, bare: float | None) -> tuple[str, bool | None]:
    """The target of one figure, in words, and whether it was met (None: no target)."""
    if name.startswith("start") and bare:
        floor_ok = ours <= 1.5 * bare
        return "≤ 1.5 x bare, ≥ 4 x libvirtd", floor_ok and (ratio is None or ratio >= 4)
    if name == "destroy 1":
        return "≤ 20 ms", ours <= 0.020
    if _is_rate(name):
        return "≥ 4 x libvirtd", None if ratio is None else ratio >= 4
    if name.startswith("stats") and name != "stats 1":
        return "≥ 3 x libvirtd", None if ratio is None else ratio >= 3
    if name == "memory idle":
        return "≤ 60 MiB", ours <= 60 * 1024
    return "", None


if __name__ == "__main__":
    sys.exit(main())
