"""The ACPI table that mends q35 after a wake-up: the one that guests get is the one whose source is beside it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from corral.model.domain import Domain
from corral.qemu.machine_options import wake_table

TEXT = """<domain type='qemu'><name>a</name><memory>1</memory><os><type machine='{machine}'>hvm</type>{loader}</os>
  <features>{features}</features>{pm}</domain>"""
ROM = "<loader type='rom'>/bios</loader>"
FLASH = "<loader type='pflash'>/uefi</loader>"


def table(machine: str = "q35", loader: str = "", features: str = "<acpi/>", pm: str = "") -> str | None:
    return wake_table(Domain.from_xml(TEXT.format(machine=machine, loader=loader, features=features, pm=pm)))


def test_who_gets_it() -> None:
    assert table() == table(loader=ROM) == table(pm="<pm><suspend-to-mem enabled='yes'/></pm>") is not None
    assert table(machine="pc") is None
    assert table(loader=FLASH) is None
    assert table(features="") is None
    assert table(pm="<pm><suspend-to-mem enabled='no'/></pm>") is None


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (acpica-tools) is not installed")
def test_compiled_from_its_source(tmp_path: Path) -> None:
    path = table()
    assert path is not None
    source = Path(path).with_suffix(".asl")
    subprocess.run(["iasl", "-p", tmp_path / "wake", source], check=True, capture_output=True)
    # Bytes 9 (checksum) and 32 to 35 (the compiler's version) are the compiler's own.
    made, kept = ((each / "wake.aml").read_bytes() for each in (tmp_path, source.parent))
    assert made[36:] == kept[36:] and made[:9] == kept[:9]
    assert sum(kept) % 256 == 0
