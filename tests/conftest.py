"""What the kinds of tests need: a test whose machine lacks it is skipped with the reason, in one line."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from labs import libvirtd

# An example that a busy machine interrupts for longer than hypothesis's 200 ms is no failure.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@cache
def lacking(kind: str) -> str | None:
    """Why tests of this kind cannot run here, or None."""
    if kind in ("qemu", "guest") and shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)"
    if kind == "clients":
        if shutil.which("virsh") is None:
            return "virsh is not installed (apt-get install libvirt-clients)"
        if subprocess.run(["/usr/bin/python3", "-c", "import libvirt"], capture_output=True).returncode:
            return "libvirt's Python binding is not installed (apt-get install python3-libvirt)"
        return libvirtd.missing()
    return libvirtd.older() if kind == "beside" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(item, "execution_count", 1) > 1:
        renew(item)
    for marker in item.iter_markers():
        if reason := lacking(marker.name):
            pytest.skip(reason)


def renew(item: pytest.Item) -> None:
    """What a module's tests share is made anew for a second try: the first may have left a guest half changed."""
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        for definition in definitions:
            if definition.scope in ("class", "module", "package"):
                try:
                    definition.finish(item._request)
                except Exception as error:  # it is forgotten all the same
                    warnings.warn(f"{definition.argname} could not be taken down: {error!r}", stacklevel=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why the tests that passed at the second try failed at the first."""
    for report in terminalreporter.stats.get("rerun", []):
        crash = getattr(report.longrepr, "reprcrash", None)
        told = crash.message if crash is not None else str(report.longrepr)
        terminalreporter.write_line(f"RERUN {report.nodeid} ({report.when}): {' '.join(told.split())[:300]}")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a name short enough for the sockets under it (107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="cr") as directory:
        yield Path(directory)
