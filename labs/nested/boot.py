"""What the host in a guest boots from: Debian's kernel, and an initramfs that mounts this machine's own files.

Everything installed here is there, read over 9p and written to memory: QEMU, Python, Corral's own tree.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from corral.guests import modules, packages
from corral.guests.cpio import Archive
from corral.guests.kernel import unpacked
from corral.guests.tiny import cache_folder
from corral.qemu.binary import find_emulators, probe

#: Loaded one after another before the files are mounted, each after those that it depends on.
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"),
    # what lends devices to guests
    *("vfio_iommu_type1", "vfio_pci", "vhost_vsock", "vhost_net", "tun", "macvtap", "bridge", "veth"),
    # the devices
    *("igb", "igbvf", "nvme", "virtio_scsi", "sd_mod", "sg", "tcm_loop"),
    *("xhci_pci", "usb_storage"),
)
#: With the parameters that they need at once, or not loaded but on demand.
LATER = ("scsi_debug",)

_INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko" || echo "module $module: not loaded"; done </modules/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /below || exec sh
mount -t tmpfs -o mode=755 written /above
mkdir /above/files /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work files /all || exec sh
mkdir -p /all/run/modules && cp /modules/*.ko /all/run/modules
for place in proc sys dev; do mount -o move /$place /all/$place; done
read -r words </all/proc/cmdline
for word in $words; do case $word in corral.inside=*) inside=${word#*=} ;; esac; done
exec switch_root /all /usr/bin/python3 -I "$inside"
"""


@dataclass(frozen=True)
class Boot:
    """The kernel, unpacked, and its initramfs."""

    kernel: Path
    initrd: Path


async def files() -> Boot:
    """The files from the cache, or built now (half a minute). Raises CorralError where there are no packages.

    What this machine's QEMUs can do is then there, too: in a guest they take longer to say so than a daemon waits.
    """
    for emulator in find_emulators():
        await probe(emulator, cache_folder())
    linux = await packages.concrete("linux-image-amd64")
    wanted = [linux, "busybox-static"]
    versions = await packages.versions(*wanted)
    recipe = repr((versions, MODULES, LATER, _INIT))
    place = cache_folder() / f"nested-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    boot = Boot(place / "bzImage", place / "initrd")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / ".nested.lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix=".nested-", dir=cache_folder()) as scratch:
                for package in await packages.download(wanted, Path(scratch)):
                    await packages.unpack(package, Path(scratch) / "root")
                made = await asyncio.to_thread(_assemble, Path(scratch), linux.removeprefix("linux-image-"))
                made.rename(place)
    return boot


def _assemble(scratch: Path, release: str) -> Path:
    root, made = scratch / "root", scratch / "made"
    made.mkdir(mode=0o755)
    image = (root / "boot" / f"vmlinuz-{release}").read_bytes()
    (made / "bzImage").write_bytes(unpacked(image) or image)
    found = modules.collect(root / "lib/modules" / release, MODULES + LATER)
    with (made / "initrd").open("wb") as out:
        archive = Archive(out)
        for folder in ("proc", "sys", "dev", "below", "above", "all"):
            archive.folder(folder)
        archive.character_device("dev/console", 5, 1)
        archive.file("init", _INIT.encode(), executable=True)
        archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), executable=True)
        for name, module in sorted(found.modules.items()):
            archive.file(f"modules/{name}.ko", module.data)
        archive.file("modules/order", "".join(f"{name}\n" for name in found.order(MODULES)).encode())
        archive.finish()
    return made
