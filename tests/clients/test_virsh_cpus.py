"""virsh's words about CPUs, vCPUs, pinning and memory, from our daemon and from a real libvirtd on the same host."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lxml import etree
from tests.clients.beside import Said, compare

from labs import corrald, libvirtd

pytestmark = [pytest.mark.clients, pytest.mark.qemu, pytest.mark.timeout(300)]

NAME = "beside"
DOCUMENT = f"""<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>64</memory><vcpu current='1'>4</vcpu>
<iothreads>2</iothreads><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><serial type='pty'/></devices></domain>"""
SANDY = "<cpu match='exact'><model>SandyBridge</model></cpu>"
SSE4A = "<cpu match='exact'><model>qemu64</model><feature policy='require' name='sse4a'/></cpu>"
STRICT = "<cpu match='strict'><model>Nehalem</model></cpu>"
FORBID = "<cpu match='exact'><model>Nehalem</model><feature policy='forbid' name='aes'/></cpu>"
VENDOR = "<cpu match='exact'><model>Nehalem</model><vendor>AMD</vendor></cpu>"
LEAST = "<cpu match='minimum'><model>Nehalem</model></cpu>"
MODELESS = "<cpu mode='host-model'/>"
AMD = (
    "<cpu mode='custom' match='exact'><model>Opteron_G4</model><vendor>AMD</vendor></cpu>"
    "<cpu mode='custom' match='exact'><model>Opteron_G3</model><vendor>AMD</vendor></cpu>"
)
MIXED = AMD + SANDY.replace("</model>", "</model><vendor>Intel</vendor>")
HOST = (
    "<cpu><arch>x86_64</arch><model>Nehalem</model><vendor>Intel</vendor><feature name='invtsc'/>"
    "<feature name='osxsave'/></cpu>"
)
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
    "setvcpus {name} 0 --live",
    "setvcpus {name} 2 --live --config",
    "setvcpus {name} 2 --maximum --live",
    "vcpupin {name}",
    "vcpupin {name} 1 0 --live",
    "emulatorpin {name}",
    "setmem {name} 128M --live",
    "setmem {name} 32M --config",
    "setmaxmem {name} 128M",
    "setmaxmem {name} 128M --config",
    "iothreadinfo {name}",
    "iothreadadd {name} 3 --config",
    "iothreadadd {name} 3 --config",
    "iothreadset {name} 3 --poll-max-ns 1000 --config",
    "iothreadset {name} 9 --poll-max-ns 1000 --config",
    "iothreadset {name} 3 --thread-pool-min 9 --thread-pool-max 4 --config",
    "iothreadset {name} 3 --thread-pool-min 2 --config",
    "iothreadinfo {name} --config",
    "dumpxml {name} --inactive --xpath //iothreadids",
    "iothreaddel {name} 2 --config",
    "iothreaddel {name} 2 --config",
    "dumpxml {name} --inactive --xpath //iothreads|//iothreadids|//cputune",
    "iothreadadd {name} 5 --live",
    "iothreadadd {name} 5 --live",
    "iothreadset {name} 5 --poll-max-ns 5000 --poll-grow 2 --poll-shrink 3",
    "iothreadset {name} 5 --thread-pool-min 1 --thread-pool-max 4",
    "iothreadset {name} 5 --thread-pool-min 9",
    "iothreadset {name} 9 --poll-max-ns 5",
    "iothreadpin {name} 5 0 --live",
    "domstats {name} --iothread",
    "iothreadinfo {name}",
    "dumpxml {name} --xpath //iothreads|//iothreadids|//cputune/iothreadpin",
    "iothreaddel {name} 5 --live",
    "iothreaddel {name} 5 --live",
    "iothreaddel {name} 1 --live",
    "dumpxml {name} --xpath //iothreads|//iothreadids|//cputune/iothreadpin",
    "numatune {name}",
    "numatune {name} --nodeset 0 --live",
    "numatune {name} --mode 7 --live",
    "numatune {name} --mode preferred --nodeset 0 --config",
    "numatune {name} --config",
    "dumpxml {name} --inactive --xpath //numatune",
    "schedinfo {name}",
    "schedinfo {name} --set cpu_shares=100",
    "memtune {name}",
    "memtune {name} --config",
    "memtune {name} --hard-limit 1000000 --live",
    "blkiotune {name}",
    "blkiotune {name} --config",
    "blkiotune {name} --weight 500 --live",
    "dommemstat {name} --period 3",
    "dumpxml {name} --xpath //memballoon/stats",
    "setvcpus {name} 1 --guest",
    "guestvcpus {name}",
    "guestvcpus {name} --cpulist 0 --disable",
    "vcpuinfo {name} --pretty",
    "vcpucount {name} --maximum --config",
    "vcpucount {name} --guest",
    "vcpucount {name} --active --live",
    "setvcpus {name} 5 --maximum --live",
    "setvcpus {name} 0 --config",
    "setvcpu {name} 9 --enable --live",
    "setvcpu {name} 1-2 --enable --config",
    "vcpupin {name} 0 r --live",
    "vcpupin {name} 0 99 --live",
    "emulatorpin {name} 0 --live",
    "emulatorpin {name} 99 --live",
    "perf {name}",
    "perf {name} --enable page_faults --config",
    "perf {name} --disable page_faults --config",
    "perf {name} --config",
    "perf {name} --enable nonsense --config",
    "perf {name} --enable context_switches,task_clock --live",
    "perf {name} --disable context_switches --live",
    "perf {name} --live",
    "dumpxml {name} --xpath //perf",
    "domstats {name} --vm",
    "destroy {name}",
    "vcpucount {name} --live",
    "perf {name} --live",
    "cpu-stats {name} --total",
    "maxvcpus",
    "hypervisor-cpu-models --virttype qemu",
    "domcapabilities --virttype qemu --machine q35 --xpath //vcpu",
    "domcapabilities --virttype qemu --xpath //cpu/mode[@name='host-passthrough']",
    "domcapabilities --virttype qemu --xpath //cpu/mode[@name='maximum']",
    "capabilities --xpath //host/cpu/counter",
    "cpu-compare {sandy} --error",
    "cpu-compare {sandy} --validate",
    "cpu-compare {strict}",
    "cpu-compare {forbid}",
    "cpu-compare {vendor}",
    "cpu-compare {least}",
    "cpu-compare {modeless}",
    "cpu-baseline {host}",
    "cpu-baseline {host} --features",
    "cpu-baseline {host} --migratable",
    "hypervisor-cpu-compare --virttype qemu {strict}",
    "hypervisor-cpu-compare --virttype qemu {forbid} --error",
    "hypervisor-cpu-compare --virttype qemu {vendor}",
    "hypervisor-cpu-compare --virttype qemu {least}",
    "hypervisor-cpu-compare --virttype qemu {modeless}",
    "hypervisor-cpu-compare --virttype qemu --machine q35 {sandy}",
    "hypervisor-cpu-baseline --virttype qemu {amd}",
    "hypervisor-cpu-baseline --virttype qemu {amd} --migratable",
    "hypervisor-cpu-baseline --virttype qemu {mixed}",
    "hypervisor-cpu-baseline --virttype qemu {modeless}",
    "schedinfo {name}",
    "memtune {name}",
    "blkiotune {name}",
    "numatune {name}",
    "start {name}",
    "numatune {name} --live",
    "destroy {name}",
    "freepages",
    "freepages 0 2M",
    "allocpages 4K 10",
    "allocpages 2M 0",
    "cpu-compare {sandy}",
    "cpu-compare {sse4a}",
    "cpu-baseline {sandy}",
    "hypervisor-cpu-compare --virttype qemu {sandy}",
    "hypervisor-cpu-compare --virttype qemu {sse4a}",
    "hypervisor-cpu-compare --virttype qemu --error {sandy}",
    "hypervisor-cpu-baseline --virttype qemu {two}",
]


GROWING = f"""<domain type='qemu'><name>{NAME}-grows</name><maxMemory slots='4' unit='MiB'>1024</maxMemory>
<memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<cpu><numa><cell id='0' cpus='0' memory='128' unit='MiB'/></numa></cpu>
<devices><serial type='pty'/></devices></domain>"""
#: Modules that are attached and detached; the guest, which is none, takes notice of nothing.
MEMORY = {
    "dimm": "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
    "nowhere": "<memory model='dimm'><target><size unit='MiB'>128</size><node>7</node></target></memory>",
    "vast": "<memory model='dimm'><target><size unit='MiB'>4096</size><node>0</node></target></memory>",
    "growing": "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node>"
    "<block unit='MiB'>2</block><requested unit='MiB'>0</requested></target></memory>",
    "uneven": "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node>"
    "<block unit='MiB'>2</block><requested unit='KiB'>100</requested></target></memory>",
}
MEMORY_COMMANDS = [
    "attach-device {name} {dimm} --config",
    "dumpxml {name} --inactive --xpath //devices/memory",
    "attach-device {name} {nowhere} --config",
    "attach-device {name} {vast} --config",
    "attach-device {name} {growing} --config",
    "attach-device {name} {uneven} --config",
    "update-memory-device {name} --config --requested-size 64M",
    "dumpxml {name} --inactive --xpath //devices/memory",
    "detach-device {name} {growing} --config",
    "detach-device {name} {dimm} --config",
    "detach-device {name} {dimm} --config",
    "dumpxml {name} --inactive --xpath //domain/memory|//currentMemory|//maxMemory",
    "attach-device {name} {dimm} --live",
    "start {name} --paused",
    "attach-device {name} {dimm} --live",
    "dumpxml {name} --xpath //devices/memory",
    "attach-device {name} {nowhere} --live",
    "attach-device {name} {vast} --live",
    "attach-device {name} {growing} --live",
    "dumpxml {name} --xpath //devices/memory",
    "update-memory-device {name} --live --requested-size 64M",
    "update-memory-device {name} --live --node 0 --requested-size 128M",
    "update-memory-device {name} --live --alias virtiomem0 --requested-size 32M",
    "update-memory-device {name} --live --alias dimm0 --requested-size 32M",
    "update-memory-device {name} --live --alias none --requested-size 32M",
    "update-memory-device {name} --live --alias virtiomem0 --requested-size 1G",
    "update-memory-device {name} --live --alias virtiomem0 --requested-size 100K",
    "dumpxml {name} --xpath //devices/memory",
    "dumpxml {name} --xpath //domain/memory|//currentMemory|//maxMemory",
    "setmem {name} 1G --live",
    "setmaxmem {name} 256M --live",
    "dommemstat {name} --live --period 2",
    "destroy {name}",
    "setmaxmem {name} 512M --config",
    "dumpxml {name} --inactive --xpath //domain/memory|//currentMemory|//maxMemory",
    "undefine {name}",
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


def virsh(uri: str, *words: str) -> tuple[int, str]:
    """Exit status and all that one command says."""
    done = subprocess.run(
        ["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"}
    )
    return done.returncode, done.stdout + done.stderr


def said(uri: str, directory: Path, name: str, files: dict[str, str], commands: list[str]) -> Said:
    """What virsh prints for each command, and its status."""
    for file, text in files.items():
        (directory / file).write_text(text)
    answers = []
    for command in ("define {domain}", *commands):
        words = command.format(name=name, **{file: str(directory / file) for file in files}).split()
        status, printed = virsh(uri, *words)
        lines = [line for line in printed.replace('"', "'").splitlines() if line.strip()]
        # Which CPU a vCPU last ran on, and for how long, is not the daemons' to agree about.
        lines = [line for line in lines if not line.startswith(("CPU:", "CPU time:"))]
        # Where in the document the fault is we say in addition.
        lines = [re.sub(r" \(/domain/\S+\)$| \(/domain/\S+, line \d+\)$", "", line) for line in lines]
        # libvirt lists I/O threads in the order of QEMU's hash table.
        ordered = sorted(lines) if "iothread" in command and "dumpxml" not in command else lines
        answers.append((command, [*ordered, f"status {status}"]))
    return answers


@pytest.mark.beside
def test_the_same_words_from_both(uris: tuple[str, str], tmp_path: Path) -> None:
    files = {"domain": DOCUMENT, "sandy": SANDY, "sse4a": SSE4A, "two": TWO, "strict": STRICT, "forbid": FORBID}
    files |= {"vendor": VENDOR, "least": LEAST, "modeless": MODELESS, "amd": AMD, "mixed": MIXED, "host": HOST}
    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(lambda uri: said(uri, tmp_path, NAME, files, COMMANDS), uris)
    compare(ours, theirs)


@pytest.mark.beside
def test_the_same_words_about_memory_from_both(uris: tuple[str, str], tmp_path: Path) -> None:
    files = {"domain": GROWING, **MEMORY}
    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(lambda uri: said(uri, tmp_path, f"{NAME}-grows", files, MEMORY_COMMANDS), uris)
    compare(ours, theirs)


@pytest.mark.beside
def test_the_same_models_from_both(uris: tuple[str, str]) -> None:
    """Every model that libvirtd and this QEMU know: usable or not, what stands in its way, and whose it is."""

    def models(uri: str) -> tuple[str | None, dict[str, dict[str, str]], dict[str, set[str]]]:
        status, text = virsh(uri, "domcapabilities", "--virttype", "qemu", "--machine", "q35")
        assert status == 0
        cpu = etree.fromstring(text).find("cpu")
        found = {each.text or "": dict(each.attrib) for each in cpu.iterfind("mode[@name='custom']/model")}
        blockers = {
            each.get("model", ""): {feature.get("name", "") for feature in each}
            for each in cpu.iterfind("mode[@name='custom']/blockers")
        }
        return cpu.findtext("mode[@name='host-model']/model"), found, blockers

    (our_host, ours, our_blockers), (their_host, theirs, their_blockers) = map(models, uris)
    assert our_host == their_host
    assert theirs.items() <= ours.items()
    assert {name: what for name, what in our_blockers.items() if name in theirs} == their_blockers
    our_names, their_names = (set(virsh(uri, "cpu-models", "x86_64")[1].split()) for uri in uris)
    of_no_qemu = {"cpu64-rhel5", "cpu64-rhel6", "pentiumpro", "Icelake-Client", "Icelake-Client-noTSX"}
    assert their_names - of_no_qemu <= our_names


def test_the_same_figures_of_perf_and_vcpus(uris: tuple[str, str], tmp_path: Path) -> None:
    """Their names; and each counter counts."""
    counted = "<perf><event name='cpu_clock' enabled='yes'/></perf><devices>"
    (tmp_path / "figures").write_text(DOCUMENT.replace(NAME, "figures").replace("<devices>", counted))
    for uri in uris:
        assert virsh(uri, "create", str(tmp_path / "figures"))[0] == 0
    named = []
    for uri in uris:
        figures, until = {"perf.cpu_clock": "0", "vcpu.0.time": "0"}, time.monotonic() + 60
        while not (int(figures["perf.cpu_clock"]) and int(figures["vcpu.0.time"])):  # it has only just begun to run
            assert time.monotonic() < until, figures
            text = virsh(uri, "domstats", "figures", "--perf", "--vcpu", "--cpu-total")[1]
            figures = dict(line.strip().split("=") for line in text.splitlines() if "=" in line)
        named.append(figures.keys())
    assert named[1] <= named[0]
    assert named[0] - named[1] <= {"vcpu.0.halted"}  # libvirtd leaves it out where it cannot tell
    for command in (
        "cpu-stats figures",
        "cpu-stats figures --total",
        "cpu-stats figures --start 0 --count 1",
        "dommemstat figures",
        "vcpuinfo figures",
        "domstats figures --balloon",
        "domstats figures --cpu-total",
    ):
        answers = [
            (status, re.sub(r"\d+", "#", text)) for status, text in (virsh(uri, *command.split()) for uri in uris)
        ]
        if "controller is not mounted" in answers[1][1]:
            continue  # where there are no control groups, as in some containers, libvirtd does not know
        answers[0] = (answers[0][0], re.sub(r"; the total is known: .*", "", answers[0][1]))  # what we hint in addition
        assert answers[0] == answers[1], command
    for uri in uris:
        refused = virsh(uri, "perf", "figures", "--enable", "cmt")
        assert refused[0] == 1
        assert "argument unsupported: unable to enable host cpu perf event for cmt" in refused[1]
        assert virsh(uri, "destroy", "figures")[0] == 0
