"""`corral perf stat` and `corral perf record`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.progress import Progress
from corral.cli.target import find, run
from corral.errors import HostError

GRACE = 300.0  # seconds for perf's own work on a recording, and for symbols to come from the guest

Seconds = Annotated[float, typer.Option("--seconds", "-t", metavar="SECONDS", help="How long to look.", min=0.1)]


def stat(name: Name, seconds: Seconds = 5.0, connect: Connect = None, output: Format = Output.table) -> None:
    """Count a KVM machine's exits by reason, with the time that each took."""
    with Progress(f"counting for {seconds:g} s"):
        found = run(_call(connect, name, "corral.perf_stat", seconds))
    if output is Output.json:
        emit_json(found)
        return
    rows = [
        (
            "to QEMU" if row["kind"] == "userspace" else "to KVM",
            row["reason"],
            str(row["count"]),
            f"{row['count'] / seconds:.0f}",
            f"{100 * row['total'] / seconds:.2f}%",
            *(_time(row[figure]) for figure in ("min", "mean", "max")),
        )
        for row in found["exits"]
    ]
    if rows:
        print(table(("EXIT", "REASON", "COUNT", "PER S", "TIME", "SHORTEST", "MEAN", "LONGEST"), rows))
    if not any(row["kind"] == "exit" for row in found["exits"]):
        print("no exit from the guest to the kernel was seen" + (": it may be idle" if not found["exits"] else ""))
    if others := [f"{name} {count}" for name, count in found["events"].items() if name not in SHOWN]:
        print("other events: " + ", ".join(others))


SHOWN = ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "kvm_fpu")


def record(
    name: Name,
    seconds: Seconds = 5.0,
    frequency: Annotated[int, typer.Option("--frequency", "-F", help="Samples a second.", min=1, max=9999)] = 99,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The SVG file.", show_default="NAME.svg")
    ] = None,
    symbols: Annotated[bool, typer.Option(help="Fetch the guest's symbols through its agent.")] = True,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Sample where a machine's time goes, on the host and in the guest, and draw a flame graph."""
    from corral.client.flamegraph import render

    with Progress(f"sampling for {seconds:g} s"):
        found = run(_call(connect, name, "corral.perf_record", seconds, frequency=frequency, symbols=int(symbols)))
    if output is Output.json:
        emit_json(found)
        return
    path = file or Path(f"{name}.svg")
    subtitle = f"{found['samples']} samples in {seconds:g} s, {found['guest_samples']} of them in the guest"
    text = render(((stack, count) for stack, count in found["stacks"]), name, subtitle)
    try:
        path.write_text(text)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    print(f"{path}: {subtitle}")
    if found["samples"] == 0:
        print("nothing was sampled: the machine was idle")
    if symbols and found["no_symbols"]:
        print(f"without the guest's symbols: {found['no_symbols']}")
    if found["left_out"]:
        print(f"{found['left_out']} samples of rare stacks are left out")


async def _call(uri: str | None, name: str, procedure: str, seconds: float, **fields: Any) -> Any:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        milliseconds = round(seconds * 1000)
        answer = await host.call_own(
            procedure, timeout=seconds + GRACE, dom=domain.reference, milliseconds=milliseconds, **fields
        )
        return json.loads(answer.json)


def _time(seconds: float) -> str:
    """`12.3 µs`, `4.5 ms`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
