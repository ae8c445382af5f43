"""A private iSCSI target of Debian's `tgt`: its own control socket, a port of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IQN = "iqn.2026-01.org.example:corral"
VENDOR, PRODUCT = "CORRALLA", "Tested LUN"


@dataclass(frozen=True)
class Target:
    """A target with one LUN for each image, numbered from 1; a LUN's serial number is `SERIAL-n`."""

    port: int
    control: int
    pid: int
    environment: dict[str, str]

    def admin(self, *words: str) -> str:
        """Run tgtadm, and return what it printed."""
        command = ["tgtadm", "--control-port", str(self.control), "--lld", "iscsi", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=self.environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def add_guarded(self, image: Path, user: str, password: str) -> str:
        """A second target with that image as LUN 1, for whom knows the password (CHAP); its name."""
        name = f"{IQN}-guarded"
        self.admin("--op", "new", "--mode", "target", "--tid", "2", "--targetname", name)
        lun = ["--mode", "logicalunit", "--tid", "2", "--lun", "1"]
        self.admin("--op", "new", *lun, "--backing-store", str(image))
        self.admin("--op", "new", "--mode", "account", "--user", user, "--password", password)
        self.admin("--op", "bind", "--mode", "account", "--tid", "2", "--user", user)
        self.admin("--op", "bind", "--mode", "target", "--tid", "2", "--initiator-address", "ALL")
        return name


def missing() -> str | None:
    """Why there can be no target here, or None."""
    if shutil.which("tgtd", path=_path()) is None:
        return "tgtd is not installed (apt-get install tgt)"
    return None if os.geteuid() == 0 else "tgtd runs as root only"


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin"


@contextlib.contextmanager
def running(*images: Path) -> Iterator[Target]:
    """Serve the images on 127.0.0.1 until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    control = 20000 + os.getpid() % 10000
    with tempfile.TemporaryDirectory(prefix="tgt") as name:
        environment = {**os.environ, "PATH": _path(), "TGT_IPC_SOCKET": f"{name}/ipc"}
        command = ["tgtd", "-f", "--control-port", str(control), "--iscsi", f"portal=127.0.0.1:{port}"]
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            target = Target(port, control, process.pid, environment)
            _set_up(target, process, images, Path(name) / "log")
            yield target
        finally:
            process.send_signal(signal.SIGKILL)  # it ignores SIGTERM while it has targets
            process.wait(10)


def _set_up(target: Target, process: subprocess.Popen[bytes], images: tuple[Path, ...], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            target.admin("--op", "new", "--mode", "target", "--tid", "1", "--targetname", IQN)
            break
        except RuntimeError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"tgtd did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
    for number, image in enumerate(images, 1):
        lun = ["--mode", "logicalunit", "--tid", "1", "--lun", str(number)]
        target.admin("--op", "new", *lun, "--backing-store", str(image))
        params = f"vendor_id={VENDOR},product_id={PRODUCT},scsi_sn=SERIAL-{number}"
        target.admin("--op", "update", *lun, "--params", params)
    target.admin("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL")
