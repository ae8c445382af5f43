"""The questions put to a QEMU binary: one short-lived process without a machine, asked over QMP.

`ask(path, accelerator)` gives the answers as plain data, ready for a JSON file; `binary.py` keeps and reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from corral.errors import ConfigUnsupported
from corral.qemu.cpu_models import is_feature, is_service, libvirt_name, maker, vendor_name
from corral.qemu.schema import flatten

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

Answer = TypeVar("Answer")

ARCHITECTURES = {"i386": "i686", "arm": "armv7l"}
"""Where libvirt's name of an architecture differs from QEMU's."""

PROPERTY_TYPES = re.compile(
    r"(virtio|vhost-user|vhost-vsock|vhost-scsi)-.*-pci|(scsi|ide|usb)-.*|virt(console|serialport)|pcie-root-port"
    r"|pci-bridge|vfio-pci|nvme|megasas|mptsas1068|lsi53c895a|pvscsi|e1000e?|igb|rtl8139|vmxnet3|(isa|pci)-serial"
    r"|(qemu|nec-usb)-xhci|ich9-(usb|intel|ahci).*|piix[34]-usb-uhci|intel-hda|hda-.*|VGA|qxl(-vga)?|virtio-vga.*"
    r"|bochs-display|ramfb|cirrus-vga|vmware-svga|secondary-vga|i6300esb|ib700|pvpanic(-pci)?|tpm-(tis|crb)|nvdimm"
    r"|pc-dimm|ICH9-LPC|PIIX4_PM|(intel|amd)-iommu|ivshmem-.*|vmgenid|vmcoreinfo|floppy|isa-fdc|pxb(-pcie)?|acpi-erst"
    r"|fw_cfg_mem|mch|i440FX|(q35|i440FX)-pcihost"
)
"""Devices whose properties are asked for: those that differ between builds and matter to a plan."""


async def ask(path: Path, accelerator: str) -> dict[str, Any]:
    """Everything about the binary. `accelerator` may be a list (`tcg:kvm`): the first one built in is used."""
    facts = await _session(path, accelerator, _facts)
    await _ask_properties(path, accelerator, facts)
    facts["displays"], facts["audiodevs"] = await _loadable(path, "-display"), await _loadable(path, "-audiodev")
    return facts


async def _loadable(path: Path, option: str) -> list[str]:
    """The backends that an option can load: the schema names also those whose module is not installed."""
    process = await asyncio.create_subprocess_exec(
        path,
        *(option, "help"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
    words = printed.decode(errors="replace").split("\n\n")[0].splitlines()[1:]
    return sorted(word for word in map(str.strip, words) if word)


async def _ask_properties(path: Path, accelerator: str, facts: dict[str, Any]) -> None:
    """Add the properties of the devices in `PROPERTY_TYPES` and of the machine types that have an alias.

    (Objects' properties are arguments of object-add in the schema.)

    QEMU ends when asked about a device whose module does not fit it: that device counts as absent, and a new process
    answers for the rest.
    """
    facts["properties"] = {}
    waiting = [("device-list-properties", name) for name in facts["devices"] if PROPERTY_TYPES.fullmatch(name)]
    machines = [machine["name"] for machine in facts["machines"] if machine["alias"] or machine["name"] == "microvm"]
    waiting += [("qom-list-properties", f"{name}-machine") for name in machines]

    async def question(client: QMPClient) -> None:
        while waiting:
            command, name = waiting[-1]
            found = await _list(client, command, typename=name)
            facts["properties"][name] = sorted({entry["name"] for entry in found})
            waiting.pop()

    while waiting:
        try:
            await _session(path, accelerator, question)
        except ConfigUnsupported:
            _, name = waiting.pop()
            if name in facts["devices"]:
                facts["devices"].remove(name)


async def ask_accelerator(path: Path, accelerator: str) -> dict[str, Any]:
    """`models` and `hyperv`: the CPU models and Hyper-V's services as this accelerator would give them."""
    return await _session(path, accelerator, _accelerator)


async def _session(path: Path, accelerator: str, question: Callable[[QMPClient], Awaitable[Answer]]) -> Answer:
    """Run the binary without a machine while `question` asks; its own words are in the error when it does not run."""
    from qemu.qmp import ExecuteError, QMPError

    from corral.qemu.quiet import QuietClient

    with tempfile.TemporaryFile() as words:
        async with _process(path, accelerator, words) as monitor:
            client = QuietClient(f"{path.name} inquiry")
            try:
                await client.connect(monitor)
                try:
                    return await question(client)
                finally:
                    with contextlib.suppress(Exception):
                        await client.disconnect()
            except ExecuteError as error:
                raise ConfigUnsupported(f"QEMU binary '{path}' lacks a command it needs: {error}") from error
            except (QMPError, KeyError, TypeError, OSError) as error:
                text = _last_words(words) or f"{type(error).__name__}: {error}"
                raise ConfigUnsupported(f"'{path}' does not answer as QEMU does: {text}") from error


@contextlib.asynccontextmanager
async def _process(path: Path, accelerator: str, words: IO[bytes]) -> AsyncIterator[socket.socket]:
    """QEMU with a monitor on our end of a socket pair; it is gone when the context ends, or when we are killed."""
    if not os.access(path, os.X_OK):
        raise ConfigUnsupported(f"QEMU binary '{path}' cannot be run: {os.strerror(errno.EACCES)}")
    mortal = shutil.which("setpriv")
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as sockets:
        sockets.enter_context(theirs)
        try:
            process = await asyncio.create_subprocess_exec(
                *((mortal, "--pdeathsig", "KILL", "--") if mortal else ()),
                path,
                *("-S", "-no-user-config", "-nodefaults", "-display", "none"),
                *("-machine", f"none,accel={accelerator}"),
                *("-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        except OSError as error:
            ours.close()
            raise ConfigUnsupported(f"QEMU binary '{path}' cannot be run: {error.strerror}") from error
        theirs.close()
        try:
            yield ours
        finally:
            if process.returncode is None:  # os.kill: process.kill() reaps a dead child under asyncio's own watcher
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            await process.wait()


def _last_words(words: IO[bytes]) -> str:
    """The last lines a process printed, at most 2,000 bytes."""
    end = words.seek(0, 2)
    words.seek(max(0, end - 2000))
    return words.read().decode(errors="replace").strip()


async def _facts(client: QMPClient) -> dict[str, Any]:
    """All answers of one session, in the shape of `Binary`'s fields."""
    version: Any = await client.execute("query-version")
    target: Any = await client.execute("query-target")
    kvm: Any = await client.execute("query-kvm")
    commands, arguments = flatten(await _list(client, "query-qmp-schema"))
    options = await _list(client, "query-command-line-options")
    chardevs = await _types(client, "chardev")
    accelerators = await _types(client, "accel")
    number = version["qemu"]
    return {
        "version": [number["major"], number["minor"], number["micro"]],
        "package": version["package"],
        "arch": ARCHITECTURES.get(target["arch"], target["arch"]),
        "machines": [_machine(machine) for machine in await _list(client, "query-machines")],
        "devices": await _types(client, "device"),
        "objects": await _types(client, "user-creatable"),
        "chardevs": [name.removeprefix("chardev-") for name in chardevs],
        "accelerators": [name.removesuffix("-accel") for name in accelerators if name.endswith("-accel")],
        "commands": sorted(commands),
        "arguments": sorted(arguments),
        "options": sorted(option["option"] for option in options),
        "cpu_features": await _cpu_features(client),
        "accelerated": {"kvm" if kvm["enabled"] else "tcg": await _accelerator(client)},
    }


async def _list(client: QMPClient, command: str, **arguments: object) -> list[dict[str, Any]]:
    answer = await client.execute(command, arguments)
    if not isinstance(answer, list):
        raise TypeError(f"{command} answered no list")
    return answer


async def _types(client: QMPClient, interface: str) -> list[str]:
    """Names of the concrete types of an interface or parent, loadable ones included."""
    found = await _list(client, "qom-list-types", implements=interface, abstract=False)
    return sorted(entry["name"] for entry in found)


def _machine(entry: dict[str, Any]) -> dict[str, Any]:
    """One answer of query-machines as the fields of MachineType."""
    cpu = entry.get("default-cpu-type")
    return {
        "name": entry["name"],
        "alias": entry.get("alias"),
        "default": entry.get("is-default", False),
        "deprecated": entry.get("deprecated", False),
        "max_cpus": entry["cpu-max"],
        "hotpluggable_cpus": entry["hotpluggable-cpus"],
        "default_cpu": re.sub(r"-(x86_64|i386|arm)-cpu$", "", cpu) if cpu else None,
        "acpi": entry.get("acpi", entry["name"].startswith(("pc-", "microvm", "virt"))),  # not told before QEMU 8
    }


async def _accelerator(client: QMPClient) -> dict[str, Any]:
    return {
        "models": await _cpu_models(client),
        "unmigratable": await _unmigratable(client),
        "hyperv": await _hyperv(client),
    }


async def _unmigratable(client: QMPClient) -> list[str]:
    """Features that a guest gets only when nobody wants to migrate it, or asks for them by name (invtsc)."""
    from qemu.qmp import ExecuteError

    with contextlib.suppress(ExecuteError):
        usual = await _expansion(client, "full", "max")
        all_of_them = await _expansion(client, "full", "max", migratable=False)
        return sorted(
            libvirt_name(name)
            for name, value in all_of_them.items()
            if value is True and usual.get(name) is False and is_feature(name)
        )
    return []


async def _hyperv(client: QMPClient) -> list[str]:
    """Hyper-V's services that the accelerator has, under QEMU's names; asking for all of them shows which."""
    from qemu.qmp import ExecuteError

    with contextlib.suppress(ExecuteError):
        model = {"name": "host", "props": {"hv-passthrough": True}}
        answer: Any = await client.execute("query-cpu-model-expansion", {"type": "full", "model": model})
        properties: dict[str, Any] = answer["model"]["props"]
        return sorted(name for name, value in properties.items() if name.startswith("hv-") and value is True)
    return []


async def _cpu_models(client: QMPClient) -> list[dict[str, Any]]:
    """The models of query-cpu-definitions, with their features where the architecture can expand them."""
    from qemu.qmp import ExecuteError

    found = []
    for entry in sorted(await _list(client, "query-cpu-definitions"), key=lambda entry: str(entry["name"])):
        missing = {libvirt_name(name) for name in entry.get("unavailable-features", ())}
        model = {
            "name": entry["name"],
            "usable": not missing,
            "missing": sorted(missing),
            "deprecated": entry.get("deprecated", False),
            "canonical": entry.get("alias-of"),
        }
        with contextlib.suppress(ExecuteError):  # most architectures but x86 expand few models or none
            static = await _expansion(client, "static", entry["name"])
            features = {libvirt_name(name) for name, value in static.items() if value is True and is_feature(name)}
            vendor = maker(entry["name"])
            if entry["name"] in ("max", "host"):
                vendor = vendor_name(str((await _expansion(client, "full", entry["name"])).get("vendor", "")))
            model |= {"vendor": vendor, "features": sorted(features | missing)}
        found.append(model)
    return found


async def _cpu_features(client: QMPClient) -> list[str]:
    """Every feature of a CPU that this QEMU knows, under libvirt's name; none where it cannot expand models.

    KVM's services, which libvirt has no names for, are among them under QEMU's.
    """
    from qemu.qmp import ExecuteError

    with contextlib.suppress(ExecuteError):
        properties = await _expansion(client, "static", "max")
        return sorted(
            libvirt_name(name)
            for name, value in properties.items()
            if isinstance(value, bool) and (is_feature(name) or is_service(name))
        )
    return []


async def _expansion(client: QMPClient, kind: str, model: str, **props: bool) -> dict[str, Any]:
    asked = {"type": kind, "model": {"name": model} | ({"props": props} if props else {})}
    answer: Any = await client.execute("query-cpu-model-expansion", asked)
    properties: dict[str, Any] = answer["model"]["props"]
    return properties
