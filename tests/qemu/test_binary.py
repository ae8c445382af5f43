"""Asking a QEMU binary: the installed one, one that breaks, one that is none; and what is kept of the answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported
from corral.qemu.binary import Binary, find_emulators, probe
from corral.qemu.schema import flatten

SCHEMA = [
    {"name": "screendump", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "blockdev-add", "meta-type": "command", "arg-type": "3", "ret-type": "0"},
    {"name": "STOP", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [{"name": "format", "type": "2", "default": None}]},
    {"name": "2", "meta-type": "enum", "members": [{"name": "png"}, {"name": "ppm"}], "values": ["png", "ppm"]},
    {
        "name": "3",
        "meta-type": "object",
        "tag": "driver",
        "members": [{"name": "driver", "type": "4"}],
        "variants": [{"case": "file", "type": "5"}, {"case": "null", "type": "0"}],
    },
    {"name": "4", "meta-type": "enum", "members": [{"name": "file"}, {"name": "null"}]},
    {"name": "5", "meta-type": "object", "members": [{"name": "aio", "type": "6"}, {"name": "self", "type": "3"}]},
    {"name": "6", "meta-type": "enum", "members": [{"name": "threads"}, {"name": "io_uring"}]},
]


def test_schema_is_flattened() -> None:
    """Members, values and branches, and an end to types that contain themselves."""
    commands, arguments = flatten(SCHEMA)
    assert commands == {"screendump", "blockdev-add"}
    assert {"screendump/format", "screendump/format=png"} <= arguments
    assert {"blockdev-add/driver=file", "blockdev-add/driver=file/aio=io_uring"} <= arguments
    assert "blockdev-add/driver=null/aio" not in arguments


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    """The QEMU of this machine, asked once for this file."""
    path = shutil.which("qemu-system-x86_64")
    assert path is not None
    return asyncio.run(probe(Path(path), tmp_path_factory.mktemp("cache")))


@pytest.mark.qemu
def test_what_a_plan_asks(installed: Binary) -> None:
    assert installed.arch == "x86_64"
    assert installed.version >= (7, 2, 0)
    assert installed.version_number == installed.version[0] * 10**6 + installed.version[1] * 1000 + installed.version[2]
    assert installed.has_device("virtio-blk-pci")
    assert not installed.has_device("virtio-teleporter-pci")
    assert installed.has_object("memory-backend-memfd")
    assert installed.has_chardev("socket")
    assert installed.has_command("device_add")
    assert installed.has_argument("blockdev-add", "driver=file/aio=threads")
    assert installed.has_argument("object-add", "qom-type=memory-backend-file/share")
    assert not installed.has_argument("screendump", "colour")
    assert installed.has_property("virtio-blk-pci", "iothread")
    assert not installed.has_property("virtio-blk-pci", "wings")
    assert installed.has_sandbox
    assert installed.has_vnc
    assert installed.has_machine_option("q35", "hpet")
    assert installed.has_machine_option("pc-q35-7.0", "hpet"), "older versions are asked about through the newest"
    assert not installed.has_machine_option("q35", "rudder")


@pytest.mark.qemu
def test_machines(installed: Binary) -> None:
    newest = installed.canonical_machine("q35")
    assert newest.startswith("pc-q35-")
    assert installed.canonical_machine(newest) == newest
    assert installed.machine("q35").max_cpus >= 160
    assert installed.machine("q35").hotpluggable_cpus
    assert installed.machine("q35").default_cpu == "qemu64"
    assert installed.canonical_machine().startswith("pc-i440fx-"), "QEMU's default, as libvirt takes it"
    with pytest.raises(ConfigUnsupported, match="machine type 'pdp11' is not supported by QEMU binary '/"):
        installed.canonical_machine("pdp11")
    with pytest.raises(ConfigUnsupported, match="it has, for example, q35"):
        installed.canonical_machine("q53")


@pytest.mark.qemu
def test_cpu_models(installed: Binary) -> None:
    sandy = installed.cpu_model("SandyBridge")
    assert sandy.vendor == "Intel"
    assert sandy.canonical == "SandyBridge-v1"
    assert {"avx", "aes", "x2apic", "sse4.2", "pclmuldq", "lahf_lm"} <= set(sandy.features), "libvirt's names"
    assert "tsc-deadline" in sandy.missing
    assert not sandy.usable, "software emulation has no TSC deadline timer"
    assert {"xop", "fma4"} <= set(installed.cpu_model("Opteron_G4").features), "also what is missing here"
    assert installed.cpu_model("Opteron_G4").vendor == "AMD"
    assert installed.cpu_model("qemu64").usable
    assert installed.cpu_model("qemu64").vendor == ""
    with pytest.raises(ConfigUnsupported, match="CPU model 'Z80'"):
        installed.cpu_model("Z80")
    assert installed.cpu_models("kvm") == ()


@pytest.mark.qemu
def test_host_model_is_made_of_what_the_accelerator_gives(installed: Binary) -> None:
    best = installed.host_model("tcg")
    assert best is not None
    model = installed.cpu_model(best.name)
    given = (set(model.features) | set(best.require)) - set(best.disable)
    everything = installed.cpu_model("max")
    assert given == set(everything.features) - set(everything.missing)
    assert installed.host_model("kvm") is None, "nobody asked about KVM"


def only_file(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


@pytest.mark.qemu
async def test_the_second_time_is_answered_from_the_cache(tmp_path: Path, installed: Binary) -> None:
    first = await probe(installed.path, tmp_path)
    cache = only_file(tmp_path)
    written = cache.stat().st_mtime_ns
    start = time.monotonic()
    assert await probe(installed.path, tmp_path) == first == installed
    assert time.monotonic() - start < 0.1
    assert cache.stat().st_mtime_ns == written


@pytest.mark.qemu
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', None])
async def test_a_damaged_or_stale_cache_is_replaced(tmp_path: Path, installed: Binary, damage: str | None) -> None:
    await probe(installed.path, tmp_path)
    cache = only_file(tmp_path)
    good = json.loads(cache.read_text())
    if damage is None:
        damage = json.dumps({"key": "of another binary", "facts": good["facts"]})
    cache.write_text(damage)
    assert await probe(installed.path, tmp_path) == installed
    assert json.loads(cache.read_text())["key"] == good["key"]


@pytest.mark.qemu
async def test_a_cache_that_cannot_be_written_costs_only_time(installed: Binary) -> None:
    assert await probe(installed.path, Path("/proc/nowhere")) == installed


@pytest.mark.qemu
async def test_a_changed_binary_is_asked_again(tmp_path: Path, installed: Binary) -> None:
    """An upgrade of QEMU under a running daemon's feet."""
    wrapper = tmp_path / "qemu"
    wrapper.write_text(f'#!/bin/sh\nexec {installed.path} "$@"\n')
    wrapper.chmod(0o755)
    before = await probe(wrapper, tmp_path / "cache")
    assert before.devices == installed.devices
    wrapper.write_text("#!/bin/sh\necho gone wrong >&2\nexit 3\n")
    with pytest.raises(ConfigUnsupported, match="gone wrong"):
        await probe(wrapper, tmp_path / "cache")


@pytest.mark.qemu
async def test_kvm_models_are_asked_on_demand(tmp_path: Path, installed: Binary) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or "kvm" not in installed.accelerators:
        pytest.skip("/dev/kvm cannot be opened here")
    binary = await probe(installed.path, tmp_path, kvm=True)
    assert binary.cpu_model("host", "kvm").usable
    assert binary.cpu_models("tcg") == installed.cpu_models("tcg")
    assert binary.cpu_model("Opteron_G4", "kvm").vendor == "AMD", "whatever the host's own vendor"


@pytest.mark.qemu
async def test_a_device_that_kills_qemu_counts_as_absent(tmp_path: Path, installed: Binary) -> None:
    """A module package that does not fit the binary: QEMU ends when asked about its devices; the rest is answered."""
    wrapper = tmp_path / "qemu"
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    wrapper.write_text(f'#!/bin/sh\nexec python3 {killer} {installed.path} "$@"\n')
    wrapper.chmod(0o755)
    binary = await probe(wrapper)
    assert installed.devices - binary.devices == {"i6300esb"}
    assert binary.has_property("virtio-blk-pci", "iothread")


KILLER = """\
import os, re, socket, subprocess, sys, threading

fd = int(re.search(r"fd=(\\d+)", " ".join(sys.argv)).group(1))
client = socket.socket(fileno=fd)
ours, theirs = socket.socketpair()
args = [re.sub(r"fd=\\d+", f"fd={theirs.fileno()}", arg) for arg in sys.argv[1:]]
qemu = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *args], pass_fds=[theirs.fileno()])
theirs.close()

def back():
    while data := ours.recv(65536):
        client.sendall(data)
    os._exit(0)

threading.Thread(target=back, daemon=True).start()
while data := client.recv(65536):
    if b"i6300esb" in data:
        print("missing object type 'i6300esb'", file=sys.stderr, flush=True)
        break
    ours.sendall(data)
qemu.kill()
qemu.wait()
os._exit(1)
"""


@pytest.mark.qemu
def test_a_killed_asker_leaves_no_qemu(tmp_path: Path, installed: Binary) -> None:
    """The daemon may be killed at any moment, also while it asks."""
    wrapper = tmp_path / "qemu"
    wrapper.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\nexec {installed.path} "$@"\n')
    wrapper.chmod(0o755)
    asker = subprocess.Popen([sys.executable, "-c", ASKER, str(wrapper)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    asker.kill()
    asker.wait()
    pid = int((tmp_path / "pid").read_text())
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


ASKER = """\
import asyncio, pathlib, sys
from corral.qemu.binary import probe

async def again():
    while True:
        await probe(pathlib.Path(sys.argv[1]))

asyncio.run(again())
"""


async def test_what_is_no_qemu(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnsupported, match="/nope': No such file"):
        await probe(tmp_path / "nope", tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(ConfigUnsupported, match="cannot be run: Permission denied"):
        await probe(plain, tmp_path)
    with pytest.raises(ConfigUnsupported, match=r"'/bin/cat' does not answer as QEMU does: .*invalid option"):
        await probe(Path("/bin/cat"), tmp_path)
    with pytest.raises(ConfigUnsupported, match="'/bin/true' does not answer as QEMU does"):
        await probe(Path("/bin/true"), tmp_path)


async def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    """A program that starts and never speaks is killed."""
    silent = tmp_path / "silent"
    silent.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(ConfigUnsupported, match=r"did not answer within 0.5 seconds"):
        await probe(silent, tmp_path, deadline=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_emulators_are_found_on_the_path(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("an x86_64 host's search")
    for name in ("qemu-system-i386", "qemu-system-x86_64", "qemu-system-arm"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    found = find_emulators(str(tmp_path))
    assert [path.name for path in found] == ["qemu-system-x86_64", "qemu-system-i386"]
