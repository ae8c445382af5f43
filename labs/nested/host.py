"""A host in a guest, under software emulation: this machine's files, and devices to lend that this machine lacks.

    PCI     0000:01:00.0  igb: a card with 7 virtual functions     0000:02:00.0  NVMe drive, serial number CORRAL-NVME
    USB     usb-storage, serial number CORRAL-STICK
    SCSI    0:0:0:0, vendor CORRAL, serial number CORRAL-DISK

All behind an IOMMU (VT-d). Its own network is a user network that reaches nothing but itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import corral
from corral.guests import packages
from corral.guests.tiny import cache_folder
from labs.nested import boot, inside

CONNECTIONS = 3
CARD = "/sys/bus/pci/devices/0000:01:00.0"
STATE = "/run/corral/state"
#: All of it below 4 GiB: with memory above, bridges have windows there, where the kernel puts the registers of virtual
#: functions; QEMU 10.0 has those elsewhere then, and the functions' drivers wait for their card in vain.
MEMORY = "2700M"
#: What a kernel is told whose clock would otherwise be a chip that QEMU emulates: a QEMU in the guest reads it always.
HURRY = "no_timer_check tsc=reliable clocksource=tsc mitigations=off"
#: Seconds until the guest answers: 20 alone, more beside other work.
BOOT = 240.0


@dataclass(frozen=True)
class Nested:
    """The host in the guest: its QEMU, and the directory that its sockets are in."""

    process: subprocess.Popen[bytes]
    directory: Path
    commands: socket.socket

    def uri(self, connection: int = 0) -> str:
        """A URI of the daemon inside, for one of `CONNECTIONS` at a time each."""
        return f"qemu+unix:///system?socket={self.directory}/daemon.{connection}"

    @property
    def console(self) -> str:
        """What its kernel and its first process have said."""
        return (self.directory / "console").read_text(errors="replace")

    def run(self, *argv: str, timeout: float = 120, environment: Mapping[str, str] | None = None) -> str:
        """What a command prints; RuntimeError when it fails."""
        status, output = self.status(*argv, timeout=timeout, environment=environment)
        if status != 0:
            raise RuntimeError(f"{shlex.join(argv)}: {status}: {output}")
        return output

    def status(
        self, *argv: str, timeout: float = 120, environment: Mapping[str, str] | None = None
    ) -> tuple[int | None, str]:
        """The exit status of a command, None when it did not end in time, and what it printed."""
        asked = {"argv": argv, "timeout": timeout, "environment": dict(environment or {})}
        self.commands.settimeout(timeout + 30)
        self.commands.sendall(json.dumps(asked).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not (data := self.commands.recv(1 << 16)):
                raise RuntimeError(f"the host in a guest has ended: {self.console[-3000:]}")
            answer += data
        said = json.loads(answer)
        return said["status"], said["output"]

    def sh(self, script: str, timeout: float = 120) -> str:
        """What a shell script prints, without the blanks around it."""
        return self.run("sh", "-ec", script, timeout=timeout).strip()

    def python(self, *words: str, timeout: float = 300) -> str:
        """What Corral's Python prints, with its code as here."""
        code = {"PYTHONPATH": f"{Path(corral.__file__).parents[1]}:{Path(__file__).parents[2]}"}
        return self.run(sys.executable, *words, timeout=timeout, environment=code)

    def functions(self, count: int) -> list[str]:
        """Have the network card make virtual functions; their PCI addresses."""
        self.sh(f"ip link set eth0 up; echo {count} >{CARD}/sriov_numvfs")
        return self.sh(
            f"for number in $(seq 0 {count - 1}); do basename $(readlink {CARD}/virtfn$number); done"
        ).split()

    def lun(self) -> str:
        """A LUN of the kernel's own target, of 16 MiB, serial number CORRAL-LUN: its host, channel, target, LUN."""
        core, loop = "/sys/kernel/config/target/core/rd_mcp_0/lent", "/sys/kernel/config/target/loopback/naa.6001405c0"
        self.sh(
            "mkdir -p /var/target/pr; "  # where it keeps who has reserved it
            f"mkdir -p {core} {loop}/tpgt_1/lun/lun_0; echo rd_pages=4096 >{core}/control; echo 1 >{core}/enable; "
            f"echo CORRAL-LUN >{core}/wwn/vpd_unit_serial; echo naa.6001405c1 >{loop}/tpgt_1/nexus; "
            f"ln -s {core} {loop}/tpgt_1/lun/lun_0/lent"
        )
        return self.sh("cd /sys/bus/scsi/devices; grep -l RAMDISK */model | cut -d/ -f1")

    def driver(self, address: str) -> str:
        """The driver of a PCI function."""
        return self.sh(f"basename $(readlink /sys/bus/pci/devices/{address}/driver) || echo none")

    def daemon(self) -> None:
        """Start Corral's daemon."""
        source = Path(corral.__file__).parents[1]
        options = f"--state {STATE} --socket /run/corral/sock"
        asked = f"{cache_folder()}/qemu-*.json"  # what the QEMUs can do; where there is none the daemon asks them
        self.sh(
            f"mkdir -p {STATE}/cache; cd /; cp {asked} {STATE}/cache || true; "
            f"export PYTHONPATH={source} PYTHONDONTWRITEBYTECODE=1; "
            f"setsid {sys.executable} -m corral.cli daemon {options} </dev/null >>/run/corral/log 2>&1 & "
            "echo $! >/run/corral/pid"
        )
        self.until("test -S /run/corral/sock", 240)

    def kill_daemon(self) -> None:
        """End the daemon as a crash would."""
        self.sh("kill -9 $(cat /run/corral/pid); rm -f /run/corral/sock*")

    def until(self, script: str, seconds: float) -> None:
        """Wait until a script succeeds."""
        end = time.monotonic() + seconds
        while self.status("sh", "-c", script)[0] != 0:
            if time.monotonic() > end:
                raise RuntimeError(f"{script}: not within {seconds:.0f} s: {self.status('cat', '/run/corral/log')[1]}")
            time.sleep(0.2)


def missing() -> str | None:
    """Why there can be no such host here, or None."""
    if os.geteuid() != 0:
        return "the host in a guest reads this machine's files as root"
    if not packages.available():
        return "the host in a guest boots Debian's kernel, from packages of Debian's"
    devices = subprocess.run(
        ["qemu-system-x86_64", "-device", "help"], capture_output=True, text=True, timeout=60
    ).stdout
    return None if '"igb"' in devices else "this QEMU has no igb (8.0 or newer has)"


def _image(path: Path, size: int) -> Path:
    """A sparse image of `size` bytes that begins with its name."""
    with path.open("wb") as file:
        file.write(f"CORRAL-{path.stem.upper()}".encode())
        file.truncate(size)
    return path


def _arguments(directory: Path, files: boot.Boot) -> list[str]:
    def port(name: str) -> list[str]:
        chardev = f"socket,id={name},path={directory}/{name},server=on,wait=off"
        return ["-chardev", chardev, "-device", f"virtserialport,chardev={name},name=corral.{name}"]

    def disk(name: str, size: int) -> str:
        path = _image(directory / f"{name}.img", size)
        return f"driver=raw,node-name={name},file.driver=file,file.filename={path}"

    words = f"console=ttyS0 quiet panic=-1 cryptomgr.notests rodata=off intel_iommu=on {HURRY}"
    words += f" corral.inside={inside.__file__}"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", MEMORY),
        *("-sandbox", "on"),
        *("-device", "intel-iommu,intremap=on"),
        *("-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", words),
        *("-serial", f"file:{directory}/console", "-monitor", f"unix:{directory}/monitor,server=on,wait=off"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root", "-device", "virtio-serial-pci"),
        *port("commands"),
        *(word for number in range(CONNECTIONS) for word in port(f"daemon.{number}")),
        *("-device", "pcie-root-port,id=port1,chassis=1,slot=1,addr=10.0"),
        *("-netdev", "user,id=net,restrict=on", "-device", "igb,bus=port1,netdev=net,mac=52:54:00:c0:44:a1"),
        *("-device", "pcie-root-port,id=port2,chassis=2,slot=2,addr=11.0"),
        *("-blockdev", disk("nvme", 64 << 20), "-device", "nvme,bus=port2,drive=nvme,serial=CORRAL-NVME"),
        *("-device", "virtio-scsi-pci,id=scsi", "-blockdev", disk("disk", 64 << 20)),
        *("-device", "scsi-hd,bus=scsi.0,drive=disk,vendor=CORRAL,product=LENT,serial=CORRAL-DISK"),
        *("-device", "qemu-xhci,id=usb", "-blockdev", disk("stick", 16 << 20)),
        *("-device", "usb-storage,bus=usb.0,drive=stick,serial=CORRAL-STICK"),
    ]


@contextlib.contextmanager
def running(files: boot.Boot) -> Iterator[Nested]:
    """Run the host in a guest until the block ends; its first process answers when this returns."""
    with tempfile.TemporaryDirectory(prefix="nh", dir="/var/tmp") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(_arguments(directory, files), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait, 20)
        stack.callback(process.kill)
        commands = stack.enter_context(socket.socket(socket.AF_UNIX))
        _reach(process, directory, commands)
        nested = Nested(process, directory, commands)
        nested.run("true", timeout=BOOT)
        yield nested


def _reach(process: subprocess.Popen[bytes], directory: Path, commands: socket.socket) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            commands.connect(str(directory / "commands"))
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"QEMU did not start: {(directory / 'log').read_text()}") from None
            time.sleep(0.02)
