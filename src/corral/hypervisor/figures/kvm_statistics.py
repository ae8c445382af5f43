"""KVM's own figures of one machine and of its vCPUs, as QEMU reads them from the kernel (KVM_GET_STATS_FD).

Names, units and kinds are the kernel's (virt/kvm/api.rst); the suffix says what a figure is, as in libvirt:
`.sum` what has happened so far, `.cur` what is now, `.max` the most there has been. Histograms have no place there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from corral.constants import TypedParameterType
from corral.errors import CorralError

if TYPE_CHECKING:
    from corral.qemu.machine import Machine

Statistic = tuple[str, int, int | float | bool | str]
"""One statistic: name, virTypedParameterType, value."""

_known: WeakKeyDictionary[Machine, dict[str, dict[str, str]]] = WeakKeyDictionary()
_SUFFIXES = {"cumulative": "sum", "instant": "cur", "peak": "max"}


@dataclass(frozen=True, slots=True)
class Figures:
    """`vm`: those of the machine; `vcpus`: those of each vCPU by its number. Names have their suffix."""

    vm: Mapping[str, int | bool] = field(default_factory=dict)
    vcpus: Mapping[int, Mapping[str, int | bool]] = field(default_factory=dict)

    def of_vcpu(self, number: int) -> list[Statistic]:
        """The figures of a vCPU as statistics."""
        return _statistics(f"vcpu.{number}", self.vcpus.get(number, {}))

    def of_vm(self) -> list[Statistic]:
        """The figures of the machine as statistics."""
        return _statistics("vm", self.vm)

    def halt_polls(self) -> list[Statistic]:
        """Nanoseconds that all vCPUs have waited busily before they slept: for something, or for nothing.

        Only KVM does that: in emulation it is none.
        """
        return [
            (f"cpu.haltpoll.{word}.time", TypedParameterType.ULLONG, self._total(f"halt_poll_{word}_ns.sum"))
            for word in ("success", "fail")
        ]

    def _total(self, name: str) -> int:
        return sum(int(each.get(name, 0)) for each in self.vcpus.values())


async def read(machine: Machine, *, vm: bool, vcpus: bool, timeout: float) -> Figures:
    """Ask for the figures; there are none where QEMU or the kernel does not have them, or does not answer in time."""

    async def ask(command: str, **arguments: Any) -> Any:
        return await machine.monitor.execute(command, arguments or None, timeout=timeout)

    try:
        if machine not in _known:  # they stay the same as long as the kernel does
            _known[machine] = _suffixes(await ask("query-stats-schemas", provider="kvm"))
        suffixes = _known[machine]
        of_vm = await ask("query-stats", target="vm") if vm else ()
        asked = (ask("query-stats", target="vcpu"), ask("query-cpus-fast")) if vcpus else ()
        told, cpus = await asyncio.gather(*asked) if asked else ((), ())
    except CorralError:
        return Figures()
    numbers = {cpu["qom-path"]: cpu["cpu-index"] for cpu in cpus}
    return Figures(
        vm=next(iter(_values(of_vm, suffixes.get("vm", {})).values()), {}),
        vcpus={
            numbers[path]: values for path, values in _values(told, suffixes.get("vcpu", {})).items() if path in numbers
        },
    )


def _suffixes(schemas: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The suffix of each figure that has one, by target and name."""
    return {
        schema["target"]: {
            each["name"]: _SUFFIXES[each["type"]] for each in schema["stats"] if each["type"] in _SUFFIXES
        }
        for schema in schemas
        if schema["provider"] == "kvm"
    }


def _values(told: Iterable[Mapping[str, Any]], suffixes: Mapping[str, str]) -> dict[str, dict[str, int | bool]]:
    """The figures of each object by its path (of the machine: "")."""
    return {
        entry.get("qom-path", ""): {
            f"{each['name']}.{suffixes[each['name']]}": each["value"]
            for each in entry["stats"]
            if each["name"] in suffixes and isinstance(each["value"], int)
        }
        for entry in told
        if entry["provider"] == "kvm"
    }


def _statistics(prefix: str, figures: Mapping[str, int | bool]) -> list[Statistic]:
    return [
        (
            f"{prefix}.{name}",
            TypedParameterType.BOOLEAN if isinstance(value, bool) else TypedParameterType.ULLONG,
            value,
        )
        for name, value in figures.items()
    ]
