"""The daemon as a process: readiness, signals, a second daemon, handed-over sockets, leaving when idle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported
from labs.wire import Wire

pytestmark = pytest.mark.qemu

DRIVER = "qemu:///session"
COMMAND = [sys.executable, "-m", "corral.cli", "daemon"]


@contextlib.contextmanager
def started(directory: Path, *options: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    """A daemon with everything under `directory`, once it says that it is ready."""
    reader, writer = os.pipe()
    command = [
        *COMMAND,
        "--state",
        str(directory / "state"),
        "--socket",
        str(directory / "s"),
        "--ready-fd",
        str(writer),
    ]
    process = subprocess.Popen(
        [*command, *options], pass_fds=(writer, *more.pop("pass_fds", ())), stderr=subprocess.PIPE, text=True, **more
    )  # type: ignore[call-overload]
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as ready:
            assert ready.read() == b"\n", process.communicate()[1]
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def ask(path: Path) -> str:
    """The hypervisor's type as a client hears it."""
    with contextlib.closing(Wire(path, DRIVER)) as wire:
        return str(wire.call("connect_get_type").type)


def test_ready_means_ready_and_sigterm_ends_it(short_path: Path) -> None:
    with started(short_path) as daemon:
        assert ask(short_path / "s") == "QEMU"
        assert ask(short_path / "s-ro") == "QEMU"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
        assert not (short_path / "s").exists() and not (short_path / "s-ro").exists()


def test_a_daemon_that_started_by_itself_makes_way_for_one_that_was_started_on_purpose(short_path: Path) -> None:
    path = short_path / "s"
    with started(short_path, "--timeout", "60") as first:
        assert ask(path) == "QEMU"
        third = [*COMMAND, "--state", str(short_path / "state"), "--socket", str(path), "--timeout", "60"]
        refused = subprocess.run(third, capture_output=True, text=True, timeout=90)
        assert f"another Corral daemon (process {first.pid})" in refused.stderr
        path.unlink()
        with socket.socket(socket.AF_UNIX) as systemd:  # listens where the first did, and hands over to the second
            systemd.bind(str(path))
            systemd.listen()
            with started(short_path, "--socket", str(short_path / "other")) as second:
                assert second.stderr is not None
                assert f"took over from the daemon of process {first.pid}" in second.stderr.readline()
                assert first.wait(30) == 0
                assert ask(short_path / "other") == "QEMU"
                assert path.is_socket(), "the first daemon removed what was not its own"
        assert first.stderr is not None
        assert "Traceback" not in first.stderr.read()


def test_a_second_daemon_on_the_same_state_says_so(short_path: Path) -> None:
    with started(short_path):
        for extra in (["--socket", str(short_path / "other")], ["--socket", str(short_path / "s")]):
            second = subprocess.run(
                [*COMMAND, "--state", str(short_path / "state"), *extra], capture_output=True, text=True, timeout=90
            )
            assert second.returncode == 1
            assert second.stderr.strip().splitlines()[-1].startswith("corral: resource busy")
            assert "Traceback" not in second.stderr
        assert ask(short_path / "s") == "QEMU"


def test_after_a_kill_the_next_daemon_takes_over_the_socket(short_path: Path) -> None:
    with started(short_path) as daemon:
        daemon.kill()
        daemon.wait(30)
    assert (short_path / "s").exists()
    with started(short_path):
        assert ask(short_path / "s") == "QEMU"


def test_the_service_manager_is_told(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(60)
        with started(short_path, env={**os.environ, "NOTIFY_SOCKET": str(short_path / "notify")}) as daemon:
            assert b"READY=1" in manager.recv(1000)
            daemon.send_signal(signal.SIGHUP)
            assert manager.recv(1000).startswith(b"RELOADING=1")
            assert b"READY=1" in manager.recv(1000)
            assert ask(short_path / "s") == "QEMU"
            daemon.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" in manager.recv(1000)


def test_a_reload_finds_what_was_installed_meanwhile(short_path: Path) -> None:
    """QEMU came after the daemon: SIGHUP, and the client that waits has it."""
    qemu = short_path / "qemu-system-x86_64"
    xml = "<domain type='qemu'><name>a</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(short_path / "notify")}
        with (
            started(short_path, "--emulator", str(qemu), env=environment) as daemon,
            contextlib.closing(Wire(short_path / "s", DRIVER)) as wire,
        ):
            with pytest.raises(ConfigUnsupported, match="no QEMU system emulator was found"):
                wire.call("domain_define_xml_flags", xml=xml, flags=0)
            assert str(qemu) not in wire.call("connect_get_capabilities").capabilities
            qemu.symlink_to(str(shutil.which("qemu-system-x86_64")))
            daemon.send_signal(signal.SIGHUP)
            heard = b"".join(manager.recv(1000) for _ in range(3))
            assert heard.startswith(b"READY=1") and heard.endswith(b"READY=1") and b"RELOADING=1" in heard
            wire.call("domain_define_xml_flags", xml=xml, flags=0)
            assert str(qemu) in wire.call("connect_get_capabilities").capabilities


def test_sockets_from_systemd(short_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(short_path / "handed-ro"))
    listener.listen()
    wrapper = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='corral-ro'); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    state = ["--state", str(short_path / "state")]
    command = [sys.executable, "-c", wrapper, str(listener.fileno()), *COMMAND[1:], *state]
    process = subprocess.Popen(command, pass_fds=(3, listener.fileno()), stderr=subprocess.PIPE, text=True)
    try:
        assert ask(short_path / "handed-ro") == "QEMU"
        with (
            contextlib.closing(Wire(short_path / "handed-ro", DRIVER)) as wire,
            pytest.raises(Exception, match="read only"),
        ):
            wire.call("domain_define_xml", xml="<domain/>")
        assert not list((short_path / "state/run").glob("*sock*")), "it listens nowhere else"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert (short_path / "handed-ro").exists(), "systemd's sockets are systemd's to remove"
    finally:
        process.kill()
        process.communicate()


def test_it_leaves_when_idle(short_path: Path) -> None:
    with started(short_path, "--timeout", "1.5") as daemon:
        with contextlib.closing(Wire(short_path / "s", DRIVER)) as wire:
            time.sleep(2)
            assert wire.call("connect_get_type").type == "QEMU"
            assert daemon.poll() is None
        assert daemon.wait(30) == 0


def test_a_place_where_nobody_can_listen(short_path: Path) -> None:
    long = short_path / ("x" * 120)
    done = subprocess.run(
        [*COMMAND, "--state", str(short_path / "state"), "--socket", str(long)],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert "is longer than 107 bytes" in done.stderr and "Traceback" not in done.stderr


def test_a_socket_in_a_directory_that_is_not_there(short_path: Path) -> None:
    """A slip of the pen makes no directories, and the daemon says what to do."""
    place = short_path / "nonexistent" / "x"
    command = [*COMMAND, "--state", str(short_path / "state"), "--socket", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert f"cannot listen on '{place}': there is no directory '{place.parent}'; make it first" in done.stderr
    assert "Traceback" not in done.stderr and not place.parent.exists()


def test_it_is_small(short_path: Path) -> None:
    """60 MiB, the best of three: how much of its libraries is mapped is chance. Objects of Python 3.13 are larger."""
    most, found = (60 if sys.version_info < (3, 13) else 64) * 1024, list[int]()
    while len(found) < 3 and not (found and found[-1] < most):
        with started(short_path) as daemon:
            ask(short_path / "s")
            status = Path(f"/proc/{daemon.pid}/status").read_text()
        found += (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert min(found) < most, f"{found} KiB"
