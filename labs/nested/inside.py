"""The first process of the host in a guest: it mounts what a host has, starts nothing, and does what it is asked.

Asked on the port `corral.commands`: a line of JSON with `argv`, `timeout` and `environment` is answered by one with
`status` and `output`. Each port `corral.daemon.N` carries connections to the UNIX socket at /run/corral/sock, one after
another.
Of Python's own library alone: Corral's is another Python's.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

SOCKET = "/run/corral/sock"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
MOUNTS = (
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/var/tmp", "mode=1777"),
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("configfs", "/sys/kernel/config", ""),
)


def main() -> None:
    mount = ctypes.CDLL(None, use_errno=True).mount
    for kind, place, options in MOUNTS:
        Path(place).mkdir(parents=True, exist_ok=True)
        if mount(kind.encode(), place.encode(), kind.encode(), 0, options.encode()):
            print(f"{place}: {os.strerror(ctypes.get_errno())}", flush=True)
    Path("/dev/fd").symlink_to("/proc/self/fd")
    subprocess.run(["ip", "link", "set", "lo", "up"], env=ENVIRONMENT, check=False)
    ports = {place.joinpath("name").read_text().strip(): f"/dev/{place.name}" for place in _ports()}
    for name, device in ports.items():
        if name.startswith("corral.daemon"):
            threading.Thread(target=carry, args=(device,), daemon=True).start()
    serve(ports["corral.commands"])


def _ports() -> list[Path]:
    until = time.monotonic() + 60
    while True:
        found = [place for place in Path("/sys/class/virtio-ports").iterdir() if (place / "name").exists()]
        if found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def serve(device: str) -> None:
    """Do what is asked, one thing at a time, for as long as the guest runs."""
    with Path(device).open("r+b", buffering=0) as port:
        pending = b""
        while True:
            data = port.read(65536)
            if not data:  # nobody is there
                time.sleep(0.05)
                continue
            pending += data
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                port.write(json.dumps(run(json.loads(line))).encode() + b"\n")


def run(asked: dict[str, Any]) -> dict[str, object]:
    """One command to its end, or until its time is over: then all ends that it started and that is in its session."""
    process = subprocess.Popen(
        asked["argv"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT | asked["environment"],
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=asked["timeout"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return {"status": None, "output": output.decode("utf-8", "replace")}
    return {"status": process.returncode, "output": output.decode("utf-8", "replace")}


def carry(device: str) -> None:
    """Connections between a port and the daemon's socket, one after another."""
    port = os.open(device, os.O_RDWR)
    while True:
        if not (first := os.read(port, 65536)):
            time.sleep(0.05)
            continue
        with socket.socket(socket.AF_UNIX) as daemon:
            try:
                daemon.connect(SOCKET)
                daemon.sendall(first)
                _both_ways(port, daemon)
            except OSError as error:
                print(f"{device}: {error}", flush=True)


def _both_ways(port: int, daemon: socket.socket) -> None:
    while True:
        for ready, _ in _poll(port, daemon.fileno()):
            data = os.read(ready, 65536)
            if not data:
                return
            if ready == port:
                daemon.sendall(data)
            else:
                while data:
                    data = data[os.write(port, data) :]


def _poll(*descriptors: int) -> list[tuple[int, int]]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return poll.poll()


if __name__ == "__main__" and os.getpid() == 1:  # nowhere else: it covers /tmp and /run
    main()
