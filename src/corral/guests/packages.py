"""Debian packages as a quarry: downloaded and unpacked into a folder of ours, nothing installed, no privilege."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

from corral.errors import OperationFailed

_COMMAND_TIMEOUT = 60.0
_DOWNLOAD_TIMEOUT = 900.0
_LIBRARY = re.compile(r"^lib[a-z0-9]")


def available() -> bool:
    """Whether this host has Debian's package tools."""
    return all(shutil.which(program) for program in ("apt-get", "apt-cache", "dpkg-deb"))


async def versions(*packages: str) -> dict[str, str]:
    """Candidate version of each package that apt knows."""
    text = await _run("apt-cache", "policy", *packages)
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            name = line.strip().rstrip(":").partition(":")[0]
        elif line.strip().startswith("Candidate:") and "(none)" not in line:
            found[name] = line.split(":", 1)[1].strip()
    return found


async def concrete(metapackage: str) -> str:
    """The package behind a metapackage: linux-image-amd64 → linux-image-6.1.0-56-amd64."""
    for line in (await _run("apt-cache", "depends", "--important", metapackage)).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind.lstrip("|") == "Depends" and name.startswith(metapackage.rpartition("-")[0]):
            return name
    raise OperationFailed(f"apt knows no package {metapackage}", hint="run `apt-get update` as root, then try again")


async def with_libraries(package: str) -> list[str]:
    """A package and the library packages that it depends on, at any depth, through library packages only."""
    known = [package]
    level = [package]
    while level:
        text = await _run("apt-cache", "depends", "--important", *level)
        words = [line.strip().partition(": ") for line in text.splitlines()]
        names = {name for kind, _, name in words if kind.lstrip("|") in ("Depends", "PreDepends")}
        level = sorted(name for name in names if _LIBRARY.match(name) and name not in known)
        known += level
    return known


async def download(packages: list[str], folder: Path) -> list[Path]:
    """Fetch the packages' files into `folder`."""
    await _run(
        *("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", *packages),
        cwd=folder,
        timeout=_DOWNLOAD_TIMEOUT,
    )
    return _packages_in(folder)


def _packages_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.deb"))


async def unpack(package: Path, folder: Path) -> None:
    """Unpack one package's files into `folder`."""
    await _run("dpkg-deb", "--extract", str(package), str(folder), timeout=_DOWNLOAD_TIMEOUT)


async def _run(*argv: str, cwd: Path | None = None, timeout: float = _COMMAND_TIMEOUT) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise OperationFailed(f"`{' '.join(argv[:2])}` did not end in {timeout:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        complaint = [line for line in err.decode("utf-8", "replace").splitlines() if line.startswith("E:")]
        said = complaint[0] if complaint else f"exit status {process.returncode}"
        raise OperationFailed(
            f"`{' '.join(argv[:2])}` failed: {said}",
            hint="is the network there? run `apt-get update` as root, then try again",
        )
    return out.decode("utf-8", "replace")
