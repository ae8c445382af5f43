"""Kernel modules for the tiny guest: which, in what order, and the tables that busybox's modprobe reads."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from corral.errors import OperationFailed
from corral.guests.kernel import decompress

#: What the agent's port hangs on: loaded one by one before anything else.
FIRST = ("virtio_pci", "virtio_console")

#: What no device's alias asks for: keyboards and buttons as event devices, raw packets for DHCP.
ALWAYS = ("evdev", "af_packet")

#: Loaded when a device or a mount asks for them. A kernel that lacks one, or has it built in, is no error.
ON_DEMAND = (
    # virtio
    *("virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng", "virtio_balloon", "virtio_mem", "virtio_input"),
    *("vmw_vsock_virtio_transport", "9pnet_virtio", "virtio_mmio", "qemu_fw_cfg"),
    # disks and their controllers
    *(
        "sd_mod",
        "sr_mod",
        "sg",
        "ahci",
        "ata_piix",
        "ata_generic",
        "nvme",
        "sym53c8xx",
        "megaraid_sas",
        "mptspi",
        "mptsas",
    ),
    *("vmw_pvscsi", "floppy"),
    # network cards
    *("e1000", "e1000e", "igb", "igbvf", "8139cp", "8139too", "pcnet32", "ne2k_pci", "vmxnet3"),
    # USB
    *("xhci_pci", "xhci_hcd", "ehci_pci", "ehci_hcd", "uhci_hcd", "ohci_pci", "ohci_hcd"),
    *("usb_storage", "uas", "usbhid", "hid_generic", "cdc_acm", "cdc_ether", "ftdi_sio", "usbserial"),
    # keyboards, mice, buttons, screens
    *("atkbd", "psmouse", "button", "bochs", "virtio_gpu", "qxl", "cirrus", "drm_kms_helper"),
    # watchdogs, panic notice, hot-plug
    *("i6300esb", "ib700wdt", "iTCO_wdt", "pvpanic", "pvpanic_pci", "pvpanic_mmio", "shpchp", "pciehp", "acpiphp"),
    # filesystems
    *("ext4", "vfat", "isofs", "9p", "virtiofs", "squashfs", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
    *("crc32c_generic", "crc32c_intel", "libcrc32c", "loop"),
    # trusted platform modules, UEFI's variables, crypto
    *("tpm_tis", "tpm_crb", "efivarfs", "virtio_crypto"),
    # sound cards, and a simple way to play to them
    *("virtio_snd", "snd_hda_intel", "snd_hda_codec_generic", "snd_intel8x0", "snd_pcm_oss"),
    # bridges and tunnels, for guests inside and network tests
    *("bridge", "veth", "tun", "dummy", "8021q", "macvlan"),
)

_NAME = re.compile(r"^(?P<name>[^.]+)\.ko(\.(gz|xz|zst))?$")
_SIGNATURE = b"~Module signature appended~\n"


@dataclass(frozen=True, slots=True)
class Module:
    """A module as the kernel loads it: unpacked, without its signature (checking one costs an emulated CPU dearly)."""

    name: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """Modules with all that they depend on, and the files that go beside them."""

    modules: dict[str, Module]

    def order(self, names: tuple[str, ...]) -> list[str]:
        """The modules that `names` need, dependencies first."""
        ordered: list[str] = []

        def visit(name: str) -> None:
            if name in self.modules and name not in ordered:
                for needed in self.modules[name].depends:
                    visit(needed)
                ordered.append(name)

        for name in names:
            visit(name)
        return ordered

    def dependencies(self) -> str:
        """modules.dep: every module with all it needs, the nearest first."""
        return "".join(
            f"{name}.ko:{''.join(f' {needed}.ko' for needed in reversed(self.order((name,))[:-1]))}\n"
            for name in sorted(self.modules)
        )

    def aliases(self) -> str:
        """modules.alias: the patterns that devices and mounts ask by."""
        return "".join(
            f"alias {alias} {name}\n" for name, module in sorted(self.modules.items()) for alias in module.aliases
        )


def collect(folder: Path, names: tuple[str, ...] = FIRST + ALWAYS + ON_DEMAND) -> ModuleSet:
    """The modules called `names` under `folder` (/lib/modules/RELEASE) and what they depend on.

    Raises OperationFailed for a dependency that is neither there nor built in.
    """
    files = {
        match["name"].replace("-", "_"): path
        for path in sorted((folder / "kernel").rglob("*.ko*"))
        if (match := _NAME.match(path.name))
    }
    builtin_list = folder / "modules.builtin"
    builtin = (
        {Path(line).stem.replace("-", "_") for line in builtin_list.read_text().splitlines()}
        if builtin_list.exists()
        else set[str]()
    )
    modules: dict[str, Module] = {}
    todo = [name for name in names if name in files]
    while todo:
        name = todo.pop()
        if name in modules or name in builtin:
            continue
        if name not in files:
            raise OperationFailed(f"the kernel in {folder} lacks module {name}")
        modules[name] = read(name, files[name].read_bytes())
        todo.extend(modules[name].depends)
    return ModuleSet(modules)


def read(name: str, packed: bytes) -> Module:
    """A module from its file's bytes, compressed or not."""
    data = decompress(packed)
    if data.endswith(_SIGNATURE):
        # struct module_signature: 12 bytes before the magic, the last four the signature's length.
        (length,) = struct.unpack_from(">I", data, len(data) - len(_SIGNATURE) - 4)
        data = data[: -len(_SIGNATURE) - 12 - length]
    depends: list[str] = []
    aliases: list[str] = []
    for entry in _section(data, b".modinfo").split(b"\0"):
        key, _, value = entry.decode("utf-8", "replace").partition("=")
        if key == "depends":
            depends += [word.replace("-", "_") for word in value.split(",") if word]
        elif key == "alias":
            aliases.append(value)
    return Module(name, data, tuple(depends), tuple(aliases))


def _section(elf: bytes, wanted: bytes) -> bytes:
    """A section's bytes by its name from a little-endian 64-bit ELF file (elf(5)); nothing when it has none."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise OperationFailed("a kernel module is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    (names,) = struct.unpack_from("<Q", elf, table + names_index * size + 0x18)
    for index in range(count):
        at = table + index * size
        (name,) = struct.unpack_from("<I", elf, at)
        if elf[names + name : elf.index(b"\0", names + name)] == wanted:
            offset, length = struct.unpack_from("<QQ", elf, at + 0x18)
            return elf[offset : offset + length]
    return b""
