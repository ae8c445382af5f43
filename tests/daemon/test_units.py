"""systemd's units: they start the program that is there, systemd accepts them, and their sockets are as documented."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "scripts/install.sh"
GROUP = "corral"


def program(directory: Path) -> Path:
    """An installed corral, as far as the units go."""
    path = directory / "corral"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m corral.cli "$@"\n')
    path.chmod(0o755)
    return path


def read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read(path)
    return unit


@pytest.fixture
def units(tmp_path: Path) -> Path:
    subprocess.run([INSTALL, "units", program(tmp_path), tmp_path / "units"], check=True, timeout=60)
    return tmp_path / "units"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed (scripts/setup.sh test)")
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_accepts_them(units: Path, tmp_path: Path, kind: str) -> None:
    files = sorted((units / kind).iterdir())
    assert [file.name for file in files] == ["corral-ro.socket", "corral.service", "corral.socket"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", f"--{kind}", "verify", *files]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_they_start_the_program_that_is_there(units: Path, tmp_path: Path) -> None:
    for kind in ("system", "user"):
        command = read(units / kind / "corral.service")["Service"]["ExecStart"].split()
        assert command[:2] == [str(tmp_path / "corral"), "daemon"]
        told = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=True)
        assert all(option in told.stdout for option in command[2:] if option.startswith("--"))
        assert "@corral@" not in "".join(file.read_text() for file in (units / kind).iterdir())


@pytest.mark.parametrize("wrong", ["/nowhere/corral", "/bin/false", "corral"])
def test_a_program_that_is_none_gets_no_units(tmp_path: Path, wrong: str) -> None:
    refused = subprocess.run([INSTALL, "units", wrong, tmp_path / "units"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"install: '{wrong}' is " in refused.stderr
    assert not (tmp_path / "units").exists()


def documented() -> dict[str, str]:
    """What docs/installing.md says: a path's last part, and its owner and mode."""
    rows = re.findall(
        r"^\|[^|]*\| `(/run/corral[^`]*)` \| ([^|]*) \| ([^|]*) \|$", (ROOT / "docs/installing.md").read_text(), re.M
    )
    return {Path(path).name: f"{owner}: {mode}" for path, owner, mode in rows}


def test_the_units_sockets_are_as_documented(units: Path) -> None:
    table = documented()
    managing, looking = (read(units / "system" / name)["Socket"] for name in ("corral.socket", "corral-ro.socket"))
    assert (managing["ListenStream"], looking["ListenStream"]) == (
        "/run/corral/corral-sock",
        "/run/corral/corral-sock-ro",
    )
    said = f"{managing['SocketUser']}, group `{managing['SocketGroup']}`: {managing['SocketMode']}"
    assert table["corral-sock"].startswith(said)
    assert table["corral-sock-ro"] == f"root: {looking['SocketMode']}"
    service = read(units / "system" / "corral.service")["Service"]
    assert table["corral"] == f"root: {service['RuntimeDirectoryMode']}"
    for name in ("corral.socket", "corral-ro.socket"):
        assert table["corral"] == f"root: {read(units / 'system' / name)['Socket']['DirectoryMode']}"
        own = read(units / "user" / name)["Socket"]
        assert (own["SocketMode"], own["DirectoryMode"]) == ("0600", "0700")


@contextlib.contextmanager
def system_daemon(directory: Path, *, group: bool) -> Iterator[Path]:
    """The system's own daemon where nothing that it keeps is this host's; the path of its /run."""
    script = ["mount -t tmpfs tmpfs /run"]
    for name in ("lib", "cache", "log"):
        (directory / name).mkdir()
        script += [f"mkdir -p /var/{name}/corral", f"mount --bind {directory / name} /var/{name}/corral"]
    line = f"{GROUP}:x:7654:" if group else ""
    (directory / "group").write_text(re.sub(rf"(?m)^{GROUP}:.*\n", "", Path("/etc/group").read_text()) + line + "\n")
    script += [f"mount --bind {directory / 'group'} /etc/group", f"exec {sys.executable} -m corral.cli daemon"]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = Path(f"/proc/{process.pid}/root/run/corral")

    def listens() -> bool:
        """Whether its socket is there; before its own /run is, it sees this host's, where another daemon may listen."""
        socket = run / "corral-sock-ro"
        return socket.exists() and socket.stat().st_dev != Path("/run").stat().st_dev

    try:
        until = time.monotonic() + 60
        while not listens():
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.05)
        yield run
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.mark.qemu
@pytest.mark.skipif(os.geteuid() != 0, reason="the system's daemon is root's")
@pytest.mark.parametrize("group", [True, False])
def test_the_daemons_own_sockets_are_as_documented(tmp_path: Path, group: bool) -> None:
    with system_daemon(tmp_path, group=group) as run:
        found = {path.name: path.stat() for path in (run, run / "corral-sock", run / "corral-sock-ro")}
    modes = {name: f"{status.st_mode & 0o7777:04o}" for name, status in found.items()}
    assert {status.st_uid for status in found.values()} == {0}
    table = documented()
    assert table["corral"].endswith(modes["corral"])
    assert table["corral-sock-ro"].endswith(modes["corral-sock-ro"])
    if group:
        assert table["corral-sock"].startswith(f"root, group `{GROUP}`: {modes['corral-sock']} ")
        assert found["corral-sock"].st_gid == 7654
    else:
        assert table["corral-sock"].endswith(f"({modes['corral-sock']} where there is no such group)")
