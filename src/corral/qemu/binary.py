"""What one QEMU binary can do, asked of it once over QMP and kept by path, size and time.

Callers ask for features by name (`has_device("virtio-blk-pci")`, `has_argument("screendump", "format")`), never for a
version: distributions add, leave out and backport.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from corral.errors import ConfigUnsupported


@dataclass(frozen=True, slots=True)
class MachineType:
    """One machine type. `alias` is the short name that stands for it (q35, pc); `default_cpu` a model name."""

    name: str
    alias: str | None
    default: bool
    deprecated: bool
    max_cpus: int
    hotpluggable_cpus: bool
    default_cpu: str | None
    acpi: bool
    numa_memory: bool
    default_ram_id: str | None


@dataclass(frozen=True, slots=True)
class CPUModel:
    """One CPU model under one accelerator.

    `usable`: nothing of it is missing here; `missing`: QEMU's names of the features that this host or accelerator
    lacks; `canonical`: the versioned model an unversioned one stands for.
    """

    name: str
    typename: str
    usable: bool
    missing: tuple[str, ...]
    deprecated: bool
    canonical: str | None


@dataclass(frozen=True, slots=True)
class Binary:
    """The facts of one binary."""

    path: Path
    version: tuple[int, int, int]
    package: str
    arch: str
    """libvirt's name: x86_64, i686, aarch64 …"""
    machines: tuple[MachineType, ...]
    devices: frozenset[str]
    objects: frozenset[str]
    chardevs: frozenset[str]
    """Chardev backends: socket, pty, spicevmc …"""
    accelerators: frozenset[str]
    """Built in: tcg, kvm (whether KVM is to be used is `corral.host.kvm`'s answer)."""
    commands: frozenset[str]
    events: frozenset[str]
    arguments: frozenset[str]
    """Of QMP commands: `command/member`, `command/member=value`, `command/tag=value/member` …"""
    options: dict[str, frozenset[str]]
    """Command line options and their parameters."""
    properties: dict[str, frozenset[str]]
    """Properties of the device and object types that Corral asks about."""
    models: dict[str, tuple[CPUModel, ...]] = field(default_factory=dict)
    """CPU models by accelerator."""

    @property
    def version_number(self) -> int:
        """The version as libvirt counts it: 10.0.2 is 10000002."""
        major, minor, micro = self.version
        return major * 1_000_000 + minor * 1_000 + micro

    def has_device(self, name: str) -> bool:
        """Whether `-device name` exists; virtio's short names (`virtio-blk`) are QEMU's aliases, ask for real ones."""
        return name in self.devices

    def has_object(self, name: str) -> bool:
        """Whether `-object name` exists."""
        return name in self.objects

    def has_chardev(self, backend: str) -> bool:
        """Whether `-chardev backend` exists (pty, socket, spicevmc …)."""
        return backend in self.chardevs

    def has_command(self, name: str) -> bool:
        """Whether the monitor knows the QMP command."""
        return name in self.commands

    def has_event(self, name: str) -> bool:
        """Whether the monitor can emit the QMP event."""
        return name in self.events

    def has_option(self, option: str, parameter: str | None = None) -> bool:
        """Whether the command line has the option (without dash), and its parameter if given."""
        return option in self.options and (parameter is None or parameter in self.options[option])

    def has_argument(self, command: str, path: str) -> bool:
        """Whether a QMP command takes an argument.

        `path`: a member (`format`), an enumeration's value (`format=png`), or a member of a variant
        (`driver=file/aio`, `driver=file/aio=io_uring`, `type=stream/reconnect-ms`).
        """
        return f"{command}/{path}" in self.arguments

    def has_property(self, type_name: str, prop: str) -> bool:
        """Whether the device or object type has the property; False for types nobody asked QEMU about."""
        return prop in self.properties.get(type_name, ())

    @property
    def has_spice(self) -> bool:
        """Whether `-spice` works (with Debian it comes in a package of its own)."""
        return "spicevmc" in self.chardevs

    @property
    def has_vnc(self) -> bool:
        """Whether `-vnc` works."""
        return "query-vnc" in self.commands

    @property
    def has_sandbox(self) -> bool:
        """Whether `-sandbox` works."""
        return "sandbox" in self.options

    def machine(self, name: str | None = None) -> MachineType:
        """The machine type of that name or alias; without a name the default (pc where QEMU names none).

        Raises ConfigUnsupported naming machine and binary.
        """
        raise NotImplementedError

    def canonical_machine(self, name: str | None = None) -> str:
        """The machine type's full name: `q35` is `pc-q35-10.0`. Raises ConfigUnsupported."""
        return self.machine(name).name

    def cpu_models(self, accel: str = "tcg") -> tuple[CPUModel, ...]:
        """The CPU models as the accelerator (tcg or kvm) would give them; () when it was not asked."""
        return self.models.get(accel, ())

    def cpu_model(self, name: str, accel: str = "tcg") -> CPUModel:
        """The CPU model of that name. Raises ConfigUnsupported naming model and binary."""
        for model in self.cpu_models(accel):
            if model.name == name:
                return model
        raise ConfigUnsupported(f"CPU model '{name}' is not supported by QEMU binary '{self.path}'")


async def probe(path: Path, cache_dir: Path | None = None, *, kvm: bool = False, deadline: float = 30.0) -> Binary:
    """Ask the binary, or the cache when the binary has not changed since.

    `kvm`: also ask for the CPU models under KVM. Raises ConfigUnsupported when it is no QEMU or does not answer.
    """
    raise NotImplementedError


def find_emulators(search: str | None = None) -> tuple[Path, ...]:
    """QEMU system emulators for this machine's guests on `search` (default $PATH): x86_64 first, then i386."""
    raise NotImplementedError
