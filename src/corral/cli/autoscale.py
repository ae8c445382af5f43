"""`corral autoscale`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from corral.cli.options import Connect, Format, Output, complete_names
from corral.cli.output import emit_json, size, table
from corral.cli.target import find, run
from corral.errors import InvalidArgument


def autoscale(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A machine's name.", autocompletion=complete_names)
    ] = None,
    minimum: Annotated[int | None, typer.Option("--min", metavar="N", min=1, help="vCPUs at least.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", metavar="N", min=1, help="vCPUs at most.")] = None,
    target: Annotated[
        int, typer.Option("--target", metavar="PERCENT", min=10, max=100, help="Use of its vCPUs to aim at.")
    ] = 80,
    memory_min: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory at least, such as 512M.")] = None,
    memory_max: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory at most.")] = None,
    memory_target: Annotated[
        int, typer.Option(metavar="PERCENT", min=10, max=100, help="Use of its memory to aim at.")
    ] = 80,
    weight: Annotated[int, typer.Option(min=1, max=10_000, help="How it counts where the host is short.")] = 100,
    period: Annotated[float, typer.Option(metavar="SECONDS", help="Between samples.", min=0.1)] = 5.0,
    quiet: Annotated[float, typer.Option(metavar="SECONDS", help="Little use for so long before less.", min=0)] = 600.0,
    step: Annotated[float, typer.Option(metavar="SECONDS", help="Between two steps down.", min=0)] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the policy and what came of it.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Scale it no longer.")] = False,
    overcommit: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Host-wide: vCPUs for each of the host's CPUs.", min=0.1)
    ] = None,
    reserve: Annotated[
        float | None, typer.Option(metavar="CPUS", help="Host-wide: CPUs of the host kept back.", min=0)
    ] = None,
    memory_overcommit: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Host-wide: the same for memory.", min=0.1)
    ] = None,
    memory_reserve: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Host-wide: memory of the host kept back.")
    ] = None,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Have a machine scaled by its load, between bounds.

      corral autoscale web --min 1 --max 8 --target 80

    Without bounds, or with --show, it shows what is set and what came of it; without a name, for all machines.
    The policy is in the machine's metadata (urn:corral:autoscale:1). corral events -k autoscale follows decisions.
    """
    budget = {"overcommit": overcommit, "reserve": reserve, "memory_overcommit": memory_overcommit}
    chosen: dict[str, Any] = {key: value for key, value in budget.items() if value is not None}
    if memory_reserve is not None:
        chosen["memory_reserve"] = _kib(memory_reserve)
    policy: dict[str, Any] = {}
    for kind, low, high, aim in (
        ("vcpus", minimum, maximum, target),
        ("memory", memory_min and _kib(memory_min), memory_max and _kib(memory_max), memory_target),
    ):
        if high is not None:
            policy[kind] = {"min": low if low is not None else 1, "max": high, "target": aim}
        elif low is not None:
            raise InvalidArgument(f"{kind} have a minimum and no maximum", hint="give both")
    if policy:
        policy |= {"weight": weight, "period": period, "quiet": quiet, "step": step, "dry_run": dry_run}
    if (policy or off) and name is None:
        raise InvalidArgument("no machine was named")
    if policy and off:
        raise InvalidArgument("--off takes no bounds")
    found = run(_do(connect, name, policy, off, chosen))
    if output is Output.json:
        emit_json(found)
    elif "policy" in found:
        _print(name or "", found)
    elif off:
        print(name)
    else:
        _print_all(found)


async def _do(uri: str | None, name: str | None, policy: dict[str, Any], off: bool, budget: dict[str, Any]) -> Any:
    from corral.client.host import connect

    async with connect(uri) as host:
        if budget:
            await host.call_own("corral.autoscale_budget", json=json.dumps(budget))
        if name is None:
            return json.loads((await host.call_own("corral.autoscale_status")).json)
        domain = await find(host, name)
        if policy or off:
            flags = await domain.impact(None, None)
            text = json.dumps(policy) if policy else None
            await host.call_own("corral.autoscale_set", dom=domain.reference, policy=text, flags=flags)
        if off:
            return {}
        return json.loads((await host.call_own("corral.autoscale_show", dom=domain.reference)).json)


def _kib(text: str) -> int:
    """`512M`, `2G` in KiB; a number alone is MiB."""
    units = {"K": 1, "M": 1024, "G": 1 << 20, "T": 1 << 30}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(number[-1:], 0)
    try:
        return round(float(number[:-1] if unit else number) * (unit or 1024))
    except (ValueError, OverflowError):
        raise InvalidArgument(f"'{text}' is no size", hint="such as 512M or 2G") from None


def _print(name: str, found: dict[str, Any]) -> None:
    policy = found["policy"]
    if policy is None:
        print(f"{name} is not scaled; corral autoscale {name} --min 1 --max 4 has it done")
        return
    for kind in ("vcpus", "memory"):
        if bounds := policy.get(kind):
            low, high = (_amount(kind, bounds[end]) for end in ("min", "max"))
            print(f"{kind}: {low} to {high}, aiming at {bounds['target']} % of use{_dry(policy)}")
            if (decision := (found.get(kind) or {}).get("decision")) is not None:
                figures = ", ".join(f"{figure} {value:g}" for figure, value in decision["inputs"].items())
                print(f"  {decision['verdict']}: {decision['reason']} ({figures})")
    print(
        f"every {policy['period']:g} s; less after {policy['quiet']:g} s of quiet, a step each {policy['step']:g} s;"
        f" weight {policy['weight']}"
    )


def _dry(policy: dict[str, Any]) -> str:
    return ", told only (dry run)" if policy.get("dry_run") else ""


def _amount(kind: str, amount: int) -> str:
    return size(amount) if kind == "memory" else str(amount)


def _print_all(found: dict[str, Any]) -> None:
    budget = found["budget"]
    print(
        f"all scaled machines together: {budget['overcommit']:g} vCPUs for each of the host's CPUs"
        f" ({budget['reserve']:g} kept back), {budget['memory_overcommit']:g} times its memory"
        f" ({size(budget['memory_reserve'])} kept back)"
    )
    rows = [
        (name, kind, _amount(kind, decision["amount"]), decision["verdict"], decision["reason"])
        for name, shown in found["domains"].items()
        for kind in ("vcpus", "memory")
        if (decision := (shown.get(kind) or {}).get("decision")) is not None
    ]
    if rows:
        print(table(("NAME", "WHAT", "NOW", "VERDICT", "REASON"), rows))
