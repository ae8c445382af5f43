"""Monitoring programs as Debian ships them: prometheus-libvirt-exporter, and collectd with its virt plugin."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs import corrald

EXPORTER = shutil.which("prometheus-libvirt-exporter")
COLLECTD = shutil.which("collectd", path="/usr/sbin:/usr/bin")
PLUGIN = Path("/usr/lib/collectd/virt.so")

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """
<domain type='qemu'>
  <name>watched</name>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'><driver type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>
  </devices>
</domain>
"""

COLLECTD_CONFIG = """
BaseDir "{directory}"
PIDFile "{directory}/collectd.pid"
FQDNLookup false
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin csv
LoadPlugin virt
<Plugin csv>
  DataDir "{directory}/csv"
</Plugin>
<Plugin virt>
  Connection "{uri}"
  RefreshInterval 2
  HostnameFormat name
  ExtraStats "cpu_util disk domain_state pcpu vcpu disk_err memory vcpupin"
</Plugin>
"""


@pytest.fixture(scope="module")
def watched(daemon: corrald.Daemon) -> corrald.Daemon:
    """A daemon with one running machine."""
    image, path = daemon.state.parent / "vda.qcow2", daemon.state.parent / "watched.xml"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
    path.write_text(DOCUMENT.format(image=image))
    subprocess.run(["virsh", "-q", "-c", daemon.uri, "create", str(path)], check=True, capture_output=True, timeout=100)
    return daemon


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def until(condition: Callable[[], bool], log: Path, deadline: float = 60.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@pytest.mark.skipif(EXPORTER is None, reason="prometheus-libvirt-exporter is not installed (apt-get install it)")
def test_prometheus(watched: corrald.Daemon, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, page = tmp_path / "log", f"http://127.0.0.1:{port}/metrics"
    command = [str(EXPORTER), f"--web.listen-address=127.0.0.1:{port}", f"--libvirt.uri={watched.uri}"]
    with process(command, log):
        seen = ""

        def scraped() -> bool:
            nonlocal seen
            with contextlib.suppress(OSError):
                seen = urllib.request.urlopen(page, timeout=10).read().decode()
            return "libvirt_up 1" in seen

        until(scraped, log)
    figures = dict(re.findall(r'^(libvirt_\w+)(?:\{domain="watched".*\})? ([\d.e+]+)$', seen, re.MULTILINE))
    assert figures["libvirt_up"] == "1"
    assert figures["libvirt_domains_number"] == "1"
    assert float(figures["libvirt_domain_info_maximum_memory_bytes"]) == 32 << 20
    assert figures["libvirt_domain_info_virtual_cpus"] == "2"
    assert figures["libvirt_domain_state_code"] == "1"
    assert float(figures["libvirt_domain_info_cpu_time_seconds_total"]) > 0
    assert float(figures["libvirt_domain_block_stats_read_requests_total"]) >= 0


@pytest.mark.skipif(
    COLLECTD is None or not PLUGIN.exists(), reason="collectd is not installed (apt-get install collectd-core)"
)
def test_collectd(watched: corrald.Daemon, tmp_path: Path) -> None:
    config, log, values = tmp_path / "conf", tmp_path / "log", tmp_path / "csv" / "watched" / "virt"
    config.write_text(COLLECTD_CONFIG.format(directory=tmp_path, uri=watched.uri))
    wanted = ["ps_cputime", "virt_cpu_total", "virt_vcpu-0", "virt_vcpu-1", "memory-total", "memory-rss"]
    wanted += ["domain_state", "disk_ops-vda", "disk_octets-vda", "cpu_affinity-vcpu_0-cpu_0"]

    def written(name: str) -> list[list[str]]:
        return [line.split(",") for path in values.glob(f"{name}-2*") for line in path.read_text().splitlines()[1:]]

    with process([str(COLLECTD), "-f", "-C", str(config)], log):
        until(lambda: all(written(name) for name in wanted), log)
    assert written("domain_state")[-1][1:] == ["1.000000", "1.000000"]
    assert float(written("memory-total")[-1][1]) == 32 << 20
    assert 0 < float(written("memory-rss")[-1][1]) < 1 << 30
    assert "fail" not in log.read_text().lower()
