"""What a plan says of disks beyond the golden files: engines by host, tables by size, a machine's own limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.errors import ConfigUnsupported
from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.plan import Image, Runtime, plan

DOCUMENT = """<domain type='qemu'><name>a</name><uuid>00000000-0000-4000-8000-000000000001</uuid>
<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' {driver}><metadata_cache>{cache}
</metadata_cache></driver><source file='/a.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


def nodes(binary: Binary, host: Host, runtime: Runtime, driver: str = "", cache: str = "") -> dict[str, dict[str, Any]]:
    """The block nodes of the disk, by name."""
    full = complete(Domain.from_xml(DOCUMENT.format(driver=driver, cache=cache)), binary, host)
    return {part.id: part.props for part in plan(full, binary, runtime).parts if part.kind == "blockdev"}


RUNTIME = Runtime(accel="tcg", run_dir=Path("/run/corral/1"), engines=("io_uring", "native"))


@pytest.mark.parametrize(
    ("engines", "driver", "chosen"),
    [
        (("io_uring", "native"), "", "io_uring"),
        (("io_uring", "native"), "cache='none'", "io_uring"),
        (("io_uring", "native"), "io='threads'", "threads"),
        (("native",), "", None),
        (("native",), "cache='none'", "native"),
        (("native",), "cache='directsync'", "native"),
        ((), "cache='none'", None),
    ],
)
def test_engine(engines: tuple[str, ...], driver: str, chosen: str | None, binary: Binary, host: Host) -> None:
    found = nodes(binary, host, replace(RUNTIME, engines=engines), driver)
    assert found["libvirt-1-storage"].get("aio") == chosen


def test_engine_of_an_older_qemu(binary: Binary, host: Host) -> None:
    """QEMU 7.2 has io_uring, and stands still when a disk copies what it reads by it: only for those who ask."""
    old = replace(binary, arguments=binary.arguments - {"blockdev-add/driver=qcow2/discard-no-unref"})
    assert "aio" not in nodes(old, host, RUNTIME)["libvirt-1-storage"]
    assert nodes(old, host, RUNTIME, "cache='none'")["libvirt-1-storage"]["aio"] == "native"
    assert nodes(old, host, RUNTIME, "io='io_uring'")["libvirt-1-storage"]["aio"] == "io_uring"


def test_engine_that_qemu_lacks(binary: Binary, host: Host) -> None:
    old = replace(binary, arguments=binary.arguments - {"blockdev-add/driver=file/aio=io_uring"})
    assert "aio" not in nodes(old, host, RUNTIME)["libvirt-1-storage"]
    assert nodes(old, host, RUNTIME, "cache='none'")["libvirt-1-storage"]["aio"] == "native"
    with pytest.raises(ConfigUnsupported, match="io_uring"):
        nodes(old, host, RUNTIME, "io='io_uring'")


@pytest.mark.parametrize(
    ("tables", "cache", "kept"),
    [
        (8 << 20, "", None),  # QEMU keeps that much by itself
        (128 << 20, "", 128 << 20),
        ((128 << 20) + 1, "", 130 << 20),
        (1 << 30, "", 256 << 20),
        (1 << 30, "<max_size unit='MiB'>1</max_size>", None),
    ],
)
def test_tables_of_the_whole_image(tables: int, cache: str, kept: int | None, binary: Binary, host: Host) -> None:
    chain = (Image(path=Path("/a.qcow2"), format="qcow2", tables=tables),)
    found = nodes(binary, host, replace(RUNTIME, chains={"vda": chain}), cache=cache)["libvirt-1-format"]
    assert found.get("l2-cache-size") == kept
    assert ("cache-size" in found) == bool(cache)
