"""Bad input, kind by kind, as a client of the daemon meets it: libvirt's code, nobody else disturbed, nothing left.

Each kind has tests of its own where it is refused (documents in tests/model, plans in tests/qemu, images and the store
in tests/hypervisor, bytes in tests/protocol); here is the one list of what they add up to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.constants import ErrorNumber
from corral.errors import CorralError
from labs import corrald
from labs.corrald import Daemon
from labs.wire import HEADER, Wire

pytestmark = pytest.mark.qemu

DRIVER = "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
PAUSED = 1
GOOD = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type machine='q35'>hvm</type></os>
  <devices>{devices}</devices>
</domain>
"""
DISK = "<disk type='file'><source file='{file}'/><target dev='{target}'/>{more}</disk>"
AT_4 = "<address type='pci' bus='0' slot='4'/>"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def bystander(daemon: Daemon) -> Iterator[Wire]:
    with contextlib.closing(Wire(daemon.socket, DRIVER)) as wire:
        yield wire


@pytest.fixture
def wire(daemon: Daemon, bystander: Wire) -> Iterator[Wire]:
    """A client whose mistakes change nothing: not for itself, not for the other, not in what the daemon keeps."""
    before = kept(daemon, bystander)
    with contextlib.closing(Wire(daemon.socket, DRIVER)) as wire:
        yield wire
        assert wire.call("connect_get_type").type == "QEMU"
    assert kept(daemon, bystander) == before


def kept(daemon: Daemon, wire: Wire) -> tuple[list[str], list[str], int]:
    """The domains, the files that are theirs, and the machines."""
    names = sorted(each.name for each in wire.call("connect_list_all_domains", need_results=1, flags=0).domains)
    files = [str(path) for path in (daemon.state / "run").rglob("*") if "sock" not in path.name]
    return names, sorted(files), len(corrald.machines(daemon.state))


def refused(wire: Wire, procedure: str, **arguments: object) -> tuple[int, str]:
    with pytest.raises(CorralError) as caught:
        wire.call(procedure, **arguments)
    return caught.value.code, str(caught.value)


def edited(old: str, new: str) -> str:
    text = GOOD.format(name="bad", devices="")
    assert old in text
    return text.replace(old, new)


def devices(*parts: str) -> str:
    return GOOD.format(name="bad", devices="".join(parts))


E = ErrorNumber
DOCUMENTS = {
    "malformed": (edited("</name>", ""), E.XML_DETAIL, "tag mismatch"),
    "empty": ("", E.XML_DETAIL, "empty"),
    "no name": (edited("<name>bad</name>", ""), E.NO_NAME, "name"),
    "unknown element": (edited("<vcpu>", "<nonsense/><vcpu>"), E.XML_ERROR, "nonsense"),
    "unsupported element": (edited("<vcpu>", "<keywrap/><vcpu>"), E.CONFIG_UNSUPPORTED, "keywrap"),
    "negative size": (edited(">32<", ">-32<"), E.XML_ERROR, "memory"),
    "absurd size": (edited(">32<", ">99999999999999999999<"), E.XML_ERROR, "memory"),
    "negative count": (edited("<vcpu>1", "<vcpu>-1"), E.XML_ERROR, "vcpu"),
    "more vCPUs than the machine": (edited("<vcpu>1", "<vcpu>5000"), E.CONFIG_UNSUPPORTED, "machine type limit"),
    "duplicate target": (
        devices(DISK.format(file="/a", target="vda", more=""), DISK.format(file="/b", target="vda", more="")),
        E.XML_ERROR,
        "vda",
    ),
    "duplicate address": (
        devices(DISK.format(file="/a", target="vda", more=AT_4), DISK.format(file="/b", target="vdb", more=AT_4)),
        E.XML_ERROR,
        "04",
    ),
    "machine type": (edited("'q35'", "'pc-nonsense'"), E.CONFIG_UNSUPPORTED, "pc-nonsense"),
    "domain type": (edited("type='qemu'", "type='xen'"), E.CONFIG_UNSUPPORTED, "xen"),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("procedure", ["domain_define_xml_flags", "domain_create_xml"])
def test_documents(wire: Wire, kind: str, procedure: str) -> None:
    xml, code, words = DOCUMENTS[kind]
    key = "xml" if "define" in procedure else "xml_desc"
    got, text = refused(wire, procedure, **{key: xml}, flags=0)
    assert (got, words.lower() in text.lower()) == (code, True), (got, text)


STARTS = {
    "missing image": (devices(DISK.format(file="/no/such.img", target="vda", more="")), E.SYSTEM_ERROR, "/no/such.img"),
    "missing kernel": (edited("</os>", "<kernel>/no/such/kernel</kernel></os>"), E.SYSTEM_ERROR, "/no/such/kernel"),
    "CPU": (
        edited("<devices>", "<cpu mode='custom'><model>Nonsense</model></cpu><devices>"),
        E.CONFIG_UNSUPPORTED,
        "Nonsense",
    ),
}


@pytest.mark.parametrize("kind", STARTS)
def test_what_cannot_start(wire: Wire, kind: str) -> None:
    xml, code, words = STARTS[kind]
    got, text = refused(wire, "domain_create_xml", xml_desc=xml, flags=0)
    assert (got, words in text) == (code, True), (got, text)


def test_a_name_and_an_image_that_are_in_use(wire: Wire, daemon: Daemon) -> None:
    image = daemon.state / "image.raw"
    image.write_bytes(bytes(1 << 20))
    disk = DISK.format(file=image, target="vda", more="")
    first = wire.call("domain_create_xml", xml_desc=GOOD.format(name="first", devices=disk), flags=PAUSED).dom
    try:
        got, text = refused(wire, "domain_create_xml", xml_desc=GOOD.format(name="first", devices=""), flags=0)
        assert (got, "already exists" in text) == (E.OPERATION_FAILED, True), (got, text)
        got, text = refused(wire, "domain_create_xml", xml_desc=GOOD.format(name="second", devices=disk), flags=0)
        assert (got, f"'{image}' of domain 'second' is in use by running domain 'first'" in text) == (
            E.RESOURCE_BUSY,
            True,
        )
    finally:
        wire.call("domain_destroy_flags", dom=first, flags=0)


def header(length: int) -> bytes:
    return HEADER.pack(length, 0x20008086, 1, 1, 0, 1, 0)


@pytest.mark.parametrize(
    "sent",
    [header(27), header(1 << 31), header(40 << 20), b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n"],
    ids=["truncated", "negative", "oversized", "noise", "http"],
)
def test_messages_that_are_none(wire: Wire, daemon: Daemon, sent: bytes) -> None:
    """The connection that they came by is ended at once."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(str(daemon.socket))
        stranger.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""


def test_a_client_that_sends_half_a_header_and_waits(wire: Wire, daemon: Daemon) -> None:
    """It waits alone: calls of others are answered meanwhile as fast as ever."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            idler = stack.enter_context(socket.socket(socket.AF_UNIX))
            idler.connect(str(daemon.socket))
            idler.sendall(header(28)[:14])
        begun = time.monotonic()
        for _ in range(100):
            wire.call("connect_get_hostname")
        assert time.monotonic() - begun < 5


def daemon_says(state: Path) -> str:
    """What a daemon that does not start says."""
    command = [sys.executable, "-m", "corral.cli", "daemon", "--state", str(state), "--socket", str(state.parent / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_store_that_is_damaged_or_newer_than_the_program(short_path: Path) -> None:
    state = short_path / "state"
    state.mkdir()
    store = state / "corral.sqlite"
    store.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    assert str(store) in daemon_says(state)
    assert store.read_bytes()[16:] == b"\xff" * 5000, "what may be mended is not written over"
    store.unlink()
    with corrald.running(short_path):
        pass
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.execute("PRAGMA user_version = 9999")
    assert "newer" in daemon_says(state)


def in_small_space(directory: Path, name: str, mebibytes: int) -> list[str]:
    """Words before a command that has a small file system at `directory/state/name`, for it alone."""
    place = directory / "state" / name
    place.mkdir(parents=True)
    script = f'mount -t tmpfs -o size={mebibytes}m,mode=711 none "{place}" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]


@contextlib.contextmanager
def full(daemon: Daemon, place: Path) -> Iterator[None]:
    """Fill a file system that the daemon sees, until the block ends."""
    hog = Path(f"/proc/{daemon.pid}/root") / place.relative_to("/") / "hog"
    with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        hog.unlink()


needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


@needs_mounts
def test_a_full_disk_under_the_state(short_path: Path) -> None:
    """A definition is refused with the reason and the next thing to do; machines run on, and end; room mends it."""
    within = in_small_space(short_path, "", 8)
    with corrald.running(short_path, within=within) as daemon, contextlib.closing(Wire(daemon.socket, DRIVER)) as wire:
        define = {"xml": GOOD.format(name="kept", devices=""), "flags": 0}
        running = wire.call("domain_create_xml", xml_desc=GOOD.format(name="running", devices=""), flags=PAUSED).dom
        with full(daemon, daemon.state):
            code, text = refused(wire, "domain_define_xml_flags", **define)
            assert (code, "full" in text or "No space left" in text) == (E.SYSTEM_ERROR, True), (code, text)
            code, text = refused(wire, "domain_create_xml", xml_desc=GOOD.format(name="more", devices=""), flags=PAUSED)
            assert "full" in text or "No space left" in text
            assert [each.name for each in names(wire)] == ["running"]
            wire.call("domain_destroy_flags", dom=running, flags=0)
            assert names(wire) == []
        wire.call("domain_define_xml_flags", **define)
        assert [each.name for each in names(wire)] == ["kept"]


@needs_mounts
def test_a_full_disk_under_the_cache(short_path: Path) -> None:
    """What is kept there may be found out again: everything works, only slower."""
    within = in_small_space(short_path, "cache", 1)
    with corrald.running(short_path, within=within) as daemon:
        with full(daemon, daemon.state / "cache"), contextlib.closing(Wire(daemon.socket, DRIVER)) as wire:
            domain = wire.call("domain_create_xml", xml_desc=GOOD.format(name="a", devices=""), flags=PAUSED).dom
            wire.call("domain_destroy_flags", dom=domain, flags=0)
            daemon.process.send_signal(signal.SIGHUP)
            assert wire.call("connect_get_type").type == "QEMU"
        assert "Traceback" not in (short_path / "daemon.log").read_text()


def names(wire: Wire) -> list[object]:
    return list(wire.call("connect_list_all_domains", need_results=1, flags=0).domains)
