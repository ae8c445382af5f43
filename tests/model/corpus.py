"""Real documents: what libvirtd 11.3 prints, and what virt-install 4.1 writes.

`libvirtd-*` were defined (or started paused under TCG) on a private libvirtd and dumped with `--security-info`, blank
lines removed; `virt-install-*` come from `virt-install --print-step 1` with `--import` and `--cdrom`.
"""

from __future__ import annotations

from pathlib import Path

DOCUMENTS = Path(__file__).parent / "documents"
LIBVIRTD = sorted(path.name for path in DOCUMENTS.glob("libvirtd-*.xml"))
VIRT_INSTALL = sorted(path.name for path in DOCUMENTS.glob("virt-install-*.xml"))


def text(name: str) -> str:
    return (DOCUMENTS / name).read_text()
