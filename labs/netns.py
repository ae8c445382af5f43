"""A network namespace of a test's own: with a bridge that has an address and a route, and a pair of veths.

br0    10.77.0.1/24, the default route's link     veth0 ═ veth1  10.78.0.1/24 on veth1
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BRIDGE, HOST = "br0", "10.77.0.1"
PARENT, OTHER, OTHER_HOST = "veth0", "veth1", "10.78.0.1"
#: All that is there at first.
LINKS = frozenset({"lo", BRIDGE, PARENT, OTHER, "up0"})

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000


@dataclass(frozen=True)
class Namespace:
    """A namespace by its name; `within` are the words that run a command inside."""

    name: str

    @property
    def within(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; what it prints."""
        done = subprocess.run([*self.within, *command], capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def ip(self, command: str) -> str:
        """`ip COMMAND`, the words separated by blanks."""
        return self.run("ip", *command.split())

    def links(self) -> set[str]:
        """The names of its links."""
        return set(self.run("ls", "/sys/class/net").split())


def missing() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed (apt-get install iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return None


@contextlib.contextmanager
def made(name: str) -> Iterator[Namespace]:
    """Make a namespace; all that is in it goes with it."""
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True, timeout=100)
    namespace = Namespace(name)
    try:
        for command in (
            "link set lo up multicast on",
            f"link add {BRIDGE} type bridge forward_delay 0",
            f"addr add {HOST}/24 dev {BRIDGE}",
            f"link set {BRIDGE} mtu 1400 up",
            f"link add {PARENT} type veth peer name {OTHER}",
            f"addr add {OTHER_HOST}/24 dev {OTHER}",
            f"link set {PARENT} up",
            f"link set {OTHER} up",
            "route add 224.0.0.0/4 dev lo",
            "link add up0 type bridge",
            "addr add 10.90.0.1/24 dev up0",
            "link set up0 up",
            "route add default via 10.90.0.254 dev up0",
        ):
            namespace.ip(command)
        yield namespace
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=100)


@contextlib.contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """Have this thread, and those that it starts, in the namespace, with a /sys of it (as ip-netns(8) does)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    place = Path.cwd()
    network, mounts, inside = (
        os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        for path in ("/proc/thread-self/ns/net", "/proc/thread-self/ns/mnt", f"/run/netns/{namespace.name}")
    )
    try:
        call("unshare", _CLONE_NEWNS)
        call("setns", inside, _CLONE_NEWNET)
        call("mount", b"none", b"/", None, _MS_SLAVE | _MS_REC, None)
        call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
        yield
    finally:
        call("setns", network, _CLONE_NEWNET)
        call("setns", mounts, _CLONE_NEWNS)
        os.chdir(place)
        for descriptor in (network, mounts, inside):
            os.close(descriptor)
