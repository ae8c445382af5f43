"""What one QEMU binary can do, asked of it once over QMP and kept by path, size and time.

Callers ask for features by name (`has_device("virtio-blk-pci")`, `has_argument("screendump", "format")`), never for a
version: distributions add, leave out and backport.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral import __version__
from corral.errors import ConfigUnsupported
from corral.qemu.cpu_models import CPUModel, NearestModel, nearest
from corral.qemu.inquiry import ask, ask_accelerator

CACHE_FORMAT = 7
"""Part of each cache file's key: raise it when a fact is added or its meaning changes."""

EMULATORS = {
    "x86_64": (("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm"), ("qemu-system-i386",)),
}
"""Names to search for a host's own guests, the first found of each group; Red Hat keeps its QEMU in libexec."""

MODULE_DIRECTORIES = ("usr/lib/*/qemu", "usr/lib64/qemu", "usr/lib/qemu")
"""Where distributions put QEMU's loadable devices: a package more or less there changes what the binary can do."""


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
    arguments: frozenset[str]
    """Of QMP commands: `command/member`, `command/member=value`, `command/tag=value/member` …"""
    options: frozenset[str]
    """Command line options that take parameters, without dash."""
    properties: dict[str, tuple[str, ...]]
    """Properties of device types, of those that Corral asks about."""
    displays: frozenset[str] = frozenset()
    """Display backends that are there, modules included: egl-headless, dbus, curses …"""
    audiodevs: frozenset[str] = frozenset()
    """Audio backends that are there, modules included: wav, alsa, pa …"""
    cpu_features: tuple[str, ...] = ()
    """Every CPU feature it knows, under libvirt's names."""
    models: dict[str, tuple[CPUModel, ...]] = field(default_factory=dict)
    """CPU models by accelerator."""
    unmigratable: dict[str, frozenset[str]] = field(default_factory=dict)
    """CPU features that the accelerator gives only to guests that ask for them, as they tie a guest to its host."""
    hyperv: dict[str, frozenset[str]] = field(default_factory=dict)
    """Properties of a CPU that are Hyper-V's services (`hv-vapic`), by accelerator."""

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

    def has_argument(self, command: str, path: str) -> bool:
        """Whether a QMP command takes an argument.

        `path`: a member (`format`), an enumeration's value (`format=png`), or a member of a variant
        (`driver=file/aio`, `driver=file/aio=io_uring`, `type=stream/reconnect-ms`).
        """
        return f"{command}/{path}" in self.arguments

    def has_property(self, type_name: str, prop: str) -> bool:
        """Whether the device type has the property; False for types outside `inquiry.PROPERTY_TYPES`.

        An object's: `has_argument("object-add", "qom-type=memory-backend-file/rom")`.
        """
        return prop in self.properties.get(type_name, ())

    def has_machine_option(self, machine: str, option: str) -> bool:
        """Whether `-machine machine,option=` exists; versions of one family are taken to have the newest's options."""
        family = self.machine(machine).name.rpartition("-")[0]
        for entry in self.machines:
            known = self.properties.get(f"{entry.name}-machine")
            if known and (entry.name == self.machine(machine).name or entry.name.rpartition("-")[0] == family):
                return option in known
        return False

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
        """The machine type of that name or alias; without a name QEMU's default.

        Raises ConfigUnsupported naming machine and binary.
        """
        import difflib  # for an error only

        for machine in self.machines:
            if machine.default if name is None else name in (machine.name, machine.alias):
                return machine
        if name is None:
            raise ConfigUnsupported(f"QEMU binary '{self.path}' has no default machine type; name one")
        known = [known for machine in self.machines for known in (machine.alias, machine.name) if known]
        near = difflib.get_close_matches(name, known, 3) or [each.alias for each in self.machines if each.alias]
        raise ConfigUnsupported(
            f"machine type '{name}' is not supported by QEMU binary '{self.path}'",
            hint=f"it has, for example, {', '.join(near)}" if near else None,
        )

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

    def available_features(self, accel: str = "tcg") -> frozenset[str]:
        """All features that a guest can have under the accelerator here; under TCG's when it was not asked."""
        known = accel if self.cpu_models(accel) else "tcg"
        model = self.cpu_model("max", known)
        return frozenset(model.features) - frozenset(model.missing) | self.unmigratable.get(known, frozenset())

    def host_model(self, accel: str = "tcg") -> NearestModel | None:
        """The named model and features that come nearest to all the accelerator can give (libvirt's host-model)."""
        models = self.cpu_models(accel)
        for model in models:
            if model.name == "max":
                return nearest(models, frozenset(model.features) - frozenset(model.missing), model.vendor)
        return None


async def probe(path: Path, cache_dir: Path | None = None, *, kvm: bool = False, deadline: float = 30.0) -> Binary:
    """Ask the binary, or the cache when the binary has not changed since.

    `kvm`: also ask for the CPU models under KVM (answers hold until the next boot). Raises ConfigUnsupported when it
    is no QEMU, does not start, or does not answer in `deadline` seconds.
    """
    cache = cache_dir / f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}.json" if cache_dir else None
    try:
        key = await asyncio.to_thread(_key, path, kvm)
    except OSError as error:
        raise ConfigUnsupported(f"QEMU binary '{path}': {error.strerror}") from error
    if cache is not None and (known := await asyncio.to_thread(_cached, cache, key)) is not None:
        return known
    try:
        async with asyncio.timeout(deadline):
            facts = await ask(path, "tcg:kvm")
            if kvm and "kvm" in facts["accelerators"] and "kvm" not in facts["accelerated"]:
                facts["accelerated"]["kvm"] = await ask_accelerator(path, "kvm")
    except TimeoutError:
        raise ConfigUnsupported(f"QEMU binary '{path}' did not answer within {deadline:g} seconds") from None
    facts["path"] = str(path)
    if cache is not None:
        await asyncio.to_thread(_keep, cache, key, facts)
    return await asyncio.to_thread(_binary, facts)


def find_emulators(search: str | None = None) -> tuple[Path, ...]:
    """QEMU system emulators for this machine's own guests on `search` (default $PATH): x86_64 first, then i386."""
    arch = platform.machine()
    found = []
    for names in EMULATORS.get(arch, ((f"qemu-system-{arch}",),)):
        for name in names:
            if (path := shutil.which(name, path=search)) is not None:
                found.append(Path(path))
                break
    return tuple(found)


def _key(path: Path, kvm: bool) -> str:
    """What must be the same for an old answer to hold: us, the binary, its modules, and the boot for KVM's part."""
    facts = path.stat()
    modules = [directory.stat().st_mtime_ns for pattern in MODULE_DIRECTORIES for directory in Path("/").glob(pattern)]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if kvm else ""
    return f"{CACHE_FORMAT}:{__version__}:{path}:{facts.st_size}:{facts.st_mtime_ns}:{modules}:{boot}"


def _cached(cache: Path, key: str) -> Binary | None:
    try:
        stored = json.loads(cache.read_bytes())
        return _binary(stored["facts"]) if stored["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(cache: Path, key: str, facts: dict[str, Any]) -> None:
    """Write the answers, whole or not at all; a full disk only costs the next start a new inquiry."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, prefix=cache.name, delete=False) as file:
            json.dump({"key": key, "facts": facts}, file, separators=(",", ":"))
        Path(file.name).replace(cache)


def _names(values: list[str]) -> tuple[str, ...]:
    """The names with one object for all occurrences of a name: models and devices share most of theirs."""
    return tuple(map(sys.intern, values))


def _binary(facts: dict[str, Any]) -> Binary:
    """A Binary from the answers of an inquiry."""
    return Binary(
        path=Path(facts["path"]),
        version=tuple(facts["version"]),
        package=facts["package"],
        arch=facts["arch"],
        machines=tuple(MachineType(**machine) for machine in facts["machines"]),
        devices=frozenset(_names(facts["devices"])),
        objects=frozenset(_names(facts["objects"])),
        chardevs=frozenset(_names(facts["chardevs"])),
        accelerators=frozenset(facts["accelerators"]),
        commands=frozenset(_names(facts["commands"])),
        arguments=frozenset(_names(facts["arguments"])),
        options=frozenset(_names(facts["options"])),
        properties={type_name: _names(names) for type_name, names in facts["properties"].items()},
        displays=frozenset(_names(facts["displays"])),
        audiodevs=frozenset(_names(facts["audiodevs"])),
        cpu_features=_names(facts["cpu_features"]),
        models={accel: tuple(map(_model, answer["models"])) for accel, answer in facts["accelerated"].items()},
        unmigratable={
            accel: frozenset(_names(answer["unmigratable"])) for accel, answer in facts["accelerated"].items()
        },
        hyperv={accel: frozenset(answer["hyperv"]) for accel, answer in facts["accelerated"].items()},
    )


def _model(facts: dict[str, Any]) -> CPUModel:
    return CPUModel(**facts | {"missing": _names(facts["missing"]), "features": _names(facts.get("features", []))})
