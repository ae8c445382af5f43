"""Debian's real libvirtd, private: own directories in a mount namespace, own socket, ended by its process id.

As root it is the system daemon (`qemu:///system`) with everything it keeps in a temporary directory mounted over
libvirt's own paths; as anybody else the session daemon under a private runtime directory (`qemu:///session`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: The major release of libvirt whose words, documents and schemas Corral follows.
FOLLOWED = 11

# What a system libvirtd writes to; each is covered by a directory of ours.
PATHS = ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")

CONFIG = """
unix_sock_dir = "{sockets}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
"""

QEMU_CONFIG = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
"""


@dataclass(frozen=True)
class Libvirtd:
    """A running libvirtd: its process id, its socket, the URIs that reach it, where its log is."""

    pid: int
    socket: Path
    driver: str  # "qemu:///system" or "qemu:///session"
    log: Path

    @property
    def uri(self) -> str:
        """A URI for virsh and for our own client."""
        return self.driver.replace("qemu:", "qemu+unix:") + f"?socket={self.socket}"


def missing() -> str | None:
    """Why no private libvirtd can be had here, or None."""
    if shutil.which("libvirtd", path=os.environ["PATH"] + ":/usr/sbin") is None:
        return "libvirtd is not installed (apt-get install libvirt-daemon libvirt-daemon-driver-qemu)"
    return None


@cache
def older() -> str | None:
    """Why this libvirtd's words are not those that Corral gives, or None."""
    if reason := missing():
        return reason
    path = os.environ["PATH"] + ":/usr/sbin"
    said = subprocess.run(
        ["libvirtd", "--version"], capture_output=True, text=True, timeout=100, check=True, env={"PATH": path}
    )
    version = said.stdout.split()[-1]
    if int(version.split(".")[0]) >= FOLLOWED:
        return None
    return f"libvirtd {version} is older than the release whose answers Corral gives ({FOLLOWED})"


def _command(directory: Path, program: str, config: Path) -> list[str]:
    if os.geteuid() != 0:
        return [program, "--config", str(config)]
    script = []
    for path in PATHS:
        own = directory / path.strip("/").replace("/", "-")
        own.mkdir()
        script += [f"mkdir -p {path}", f"mount --bind {own} {path}"]
    (directory / "etc-libvirt" / "qemu.conf").write_text(QEMU_CONFIG)
    script.append(f"exec {program} --config {config} --pid {directory / 'pid'}")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script)]


@contextlib.contextmanager
def running(directory: Path, *, within: Sequence[str] = (), deadline: float = 60.0) -> Iterator[Libvirtd]:
    """Run libvirtd with everything under `directory` (short: socket paths are limited) until the block ends.

    `within` are words before the command: `ip netns exec NAME`.
    """
    program = shutil.which("libvirtd", path=os.environ["PATH"] + ":/usr/sbin") or "libvirtd"
    config, log = directory / "libvirtd.conf", directory / "libvirtd.log"
    sockets = directory / "sock"
    sockets.mkdir()
    config.write_text(CONFIG.format(sockets=sockets))
    environment = dict(
        os.environ,
        XDG_RUNTIME_DIR=str(directory),
        XDG_CONFIG_HOME=str(directory / "config"),
        XDG_CACHE_HOME=str(directory / "cache"),
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*within, *_command(directory, program, config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    root = os.geteuid() == 0
    socket = sockets / "libvirt-sock" if root else directory / "libvirt" / "libvirt-sock"
    try:
        until = time.monotonic() + deadline
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"libvirtd did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield Libvirtd(process.pid, socket, "qemu:///system" if root else "qemu:///session", log)
    finally:
        _stop(process, directory)


def _stop(process: subprocess.Popen[bytes], directory: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pidfile in directory.glob("run-libvirt/qemu/*.pid"):  # machines outlive libvirtd; these are ours to end
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
