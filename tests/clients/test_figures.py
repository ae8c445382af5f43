"""Figures beside a real libvirtd: the same names and types for the same machine, and our `top` for its machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import domains
from labs import corrald, libvirtd
from labs.wire import Wire

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

#: What libvirtd tells and we do not: bandwidth monitors of the host, dirty rates, chains of images.
NOT_OURS = ("cpu.bandwidth", "dirtyrate", "block.0.backingIndex")
#: What we tell beside: libvirtd knows it of other processors than x86 only.
OURS = {"vcpu.0.halted"}


@pytest.fixture
def both(short_path: Path) -> Iterator[tuple[Wire, Wire, str, str]]:
    theirs, ours = short_path / "l", short_path / "c"
    theirs.mkdir()
    ours.mkdir()
    with libvirtd.running(theirs) as libvirt, corrald.running(ours) as corral:
        wires = Wire(libvirt.socket, libvirt.driver), Wire(corral.socket, libvirt.driver)
        for wire, directory in zip(wires, (theirs, ours), strict=True):
            wire.call("domain_create_xml", xml_desc=domains.document(0, directory), flags=0)
        yield *wires, libvirt.uri, corral.uri
        for wire in wires:
            wire.call("domain_destroy", dom=domains.reference(0))


def figures(wire: Wire) -> dict[str, Any]:
    (record,) = wire.call("connect_get_all_domain_stats", doms=[], stats=0, flags=0).retStats
    return {param.field: param.value for param in record.params}


def test_bulk_statistics(both: tuple[Wire, Wire, str, str]) -> None:
    theirs, ours = figures(both[0]), figures(both[1])
    assert {name for name in theirs if not name.startswith(NOT_OURS)} == ours.keys() - OURS
    assert {name: kind for name, (kind, _) in ours.items() if name in theirs} == {
        name: kind for name, (kind, _) in theirs.items() if name in ours
    }
    assert ours["vcpu.0.halted"][0] == 6  # a boolean, as libvirt's manual says


def test_virsh_perf(both: tuple[Wire, Wire, str, str]) -> None:
    said = []
    for uri in both[2:]:
        lines = []
        for words in (("--enable", "cpu_clock"), (), ("--disable", "cpu_clock"), ("--enable", "cmt")):
            done = subprocess.run(
                ["virsh", "-c", uri, "perf", domains.name(0), *words], capture_output=True, text=True, timeout=60
            )
            lines.append((done.returncode, sorted(done.stdout.split("\n"))))
        said.append(lines)
    assert said[0] == said[1]


def test_top_and_metrics_of_a_libvirtd(both: tuple[Wire, Wire, str, str]) -> None:
    for uri in both[2:]:
        command = [sys.executable, "-m", "corral.cli", "-c", uri]
        shown = subprocess.run([*command, "top", "-d", "0.3", "--format", "json"], capture_output=True, timeout=60)
        (load,) = json.loads(shown.stdout)
        assert (load["name"], load["state"], load["vcpus"]) == (domains.name(0), "running", 1)
        assert load["resident_kib"] > 10_000
        metrics = subprocess.run([*command, "metrics"], capture_output=True, text=True, timeout=60).stdout
        assert f'corral_domain_vcpu_delay_seconds_total{{domain="{domains.name(0)}"' in metrics
