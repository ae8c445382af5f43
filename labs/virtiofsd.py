"""A virtiofsd for the tests: the host's own, or where a newer QEMU has none, that of Debian 12's QEMU, unpacked."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from corral.guests.tiny import cache_folder
from corral.host import virtiofsd

PACKAGE = "qemu-system-common"
PLACE = Path("usr/lib/qemu/virtiofsd")


def program() -> Path | None:
    """The program, from the cache or downloaded now; None where there is none to be had."""
    if (found := virtiofsd.find()) is not None:
        return found
    kept = cache_folder() / "virtiofsd"
    if kept.exists():
        return kept
    listing = subprocess.run(["apt-cache", "madison", PACKAGE], capture_output=True, text=True).stdout
    versions = [line.split("|")[1].strip() for line in listing.splitlines() if line.count("|") == 2]
    version = next((version for version in versions if version.split(":")[-1].startswith("7.2")), None)
    if version is None:
        return None
    with tempfile.TemporaryDirectory(prefix="cv") as scratch:
        command = ["apt-get", "download", "-q", f"{PACKAGE}={version}"]
        if subprocess.run(command, cwd=scratch, capture_output=True, timeout=300).returncode:
            return None
        (package,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True, timeout=60)
        shutil.copy2(Path(scratch) / PLACE, kept)
    return kept
