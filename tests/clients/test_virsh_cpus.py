"""virsh's words about CPUs, vCPUs, pinning and memory, from our daemon and from a real libvirtd on the same host."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs import corrald, libvirtd

pytestmark = [pytest.mark.clients, pytest.mark.qemu, pytest.mark.timeout(300)]

NAME = "beside"
DOCUMENT = f"""<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>64</memory><vcpu current='1'>4</vcpu>
<iothreads>2</iothreads><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><serial type='pty'/></devices></domain>"""
SANDY = "<cpu match='exact'><model>SandyBridge</model></cpu>"
SSE4A = "<cpu match='exact'><model>qemu64</model><feature policy='require' name='sse4a'/></cpu>"
TWO = (
    "<cpu mode='custom' match='exact'><model>SandyBridge</model><vendor>Intel</vendor></cpu>"
    "<cpu mode='custom' match='exact'><model>Nehalem</model><vendor>Intel</vendor></cpu>"
)

COMMANDS = [
    "vcpucount {name}",
    "vcpuinfo {name}",
    "vcpupin {name}",
    "emulatorpin {name}",
    "setvcpus {name} 2",
    "setvcpus {name} 9 --config",
    "setvcpus {name} 2 --config",
    "setvcpu {name} 3 --config --enable",
    "setvcpus {name} 1 --config",
    "vcpupin {name} 1 0 --config",
    "vcpupin {name} 7 0 --config",
    "emulatorpin {name} 0 --config",
    "iothreadpin {name} 1 0 --config",
    "iothreadpin {name} 9 0 --config",
    "dumpxml {name} --xpath //cputune",
    "start {name}",
    "vcpucount {name}",
    "setvcpus {name} 3 --live",
    "dumpxml {name} --xpath //vcpus",
    "vcpucount {name} --live",
    "setvcpus {name} 9 --live",
    "setvcpu {name} 0 --disable --live",
    "setvcpu {name} 2 --enable --live",
    "vcpupin {name}",
    "vcpupin {name} 1 0 --live",
    "emulatorpin {name}",
    "setmem {name} 128M --live",
    "setmem {name} 32M --config",
    "setmaxmem {name} 128M",
    "setmaxmem {name} 128M --config",
    "dommemstat {name} --period 3",
    "dumpxml {name} --xpath //memballoon/stats",
    "setvcpus {name} 1 --guest",
    "guestvcpus {name}",
    "destroy {name}",
    "vcpucount {name} --live",
    "cpu-compare {sandy}",
    "cpu-compare {sse4a}",
    "cpu-baseline {sandy}",
    "hypervisor-cpu-compare --virttype qemu {sandy}",
    "hypervisor-cpu-compare --virttype qemu {sse4a}",
    "hypervisor-cpu-compare --virttype qemu --error {sandy}",
    "hypervisor-cpu-baseline --virttype qemu {two}",
]


@pytest.fixture(scope="module")
def uris() -> Iterator[tuple[str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="cr") as ours,
        tempfile.TemporaryDirectory(prefix="lv") as theirs,
        corrald.running(Path(ours)) as corral,
        libvirtd.running(Path(theirs)) as libvirt,
    ):
        yield corral.uri, libvirt.uri


def said(uri: str, directory: Path) -> dict[str, tuple[int, str]]:
    """What virsh prints for each command, numbered as they may repeat."""
    files = {"domain": DOCUMENT, "sandy": SANDY, "sse4a": SSE4A, "two": TWO}
    for name, text in files.items():
        (directory / name).write_text(text)
    answers = {}
    for number, command in enumerate(["define {domain}", *COMMANDS]):
        words = command.format(name=NAME, **{name: str(directory / name) for name in files}).split()
        done = subprocess.run(
            ["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"}
        )
        lines = [line for line in (done.stdout + done.stderr).replace('"', "'").splitlines() if line.strip()]
        # Which CPU a vCPU last ran on, and for how long, is not the daemons' to agree about.
        text = "\n".join(line for line in lines if not line.startswith(("CPU:", "CPU time:")))
        answers[f"{number} {command}"] = (done.returncode, text)
    return answers


def test_the_same_words_from_both(uris: tuple[str, str], tmp_path: Path) -> None:
    ours, theirs = (said(uri, tmp_path) for uri in uris)
    assert ours == theirs
