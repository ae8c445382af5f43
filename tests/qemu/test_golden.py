"""Documents in, completed documents and command lines out, kept beside this file in `golden/`.

`make golden` writes them anew; the difference is read before it is committed. The completed documents were compared
with what libvirt 11.3 makes of the same input: they say the same.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from corral.model.domain import Domain
from corral.model.schema import validate_schema
from corral.qemu import machine_options
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.live import forget
from corral.qemu.plan import DisplayTLS, GraphicsPorts, Image, Runtime, plan, settle
from corral.qemu.render import argv

GOLDEN = Path(__file__).parent / "golden"
CODE = Path(machine_options.__file__).parent
NAMES = sorted(path.stem for path in GOLDEN.glob("*.xml") if "." not in path.stem)
RUNTIME = Runtime(
    accel="tcg",
    run_dir=Path("/run/corral/1"),
    monitor_fd=7,
    chains={
        "vda": (
            Image(path=Path("/images/top.qcow2"), format="qcow2"),
            Image(path=Path("/images/middle.qcow2"), format="qcow2"),
            Image(path=Path("/images/base.raw"), format="raw"),
        )
    },
    graphics={0: GraphicsPorts(port=5900)},
    tls=DisplayTLS(directory=Path("/run/corral/1/tls"), vnc=True, verify=True),
    now=1_700_000_000,
)


def expect(path: Path, text: str) -> None:
    """The text is what the golden file says, or becomes it."""
    if os.environ.get("CORRAL_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def runtime_of(name: str) -> Runtime:
    if name == "backing-chain":
        return replace(RUNTIME, tls=None)
    if name == "displays":
        return replace(RUNTIME, chains={})
    if name == "q35-network-cards":
        return Runtime(accel="tcg", run_dir=RUNTIME.run_dir, vhost=True)
    if name == "host-devices":
        return Runtime(accel="tcg", run_dir=RUNTIME.run_dir, monitor_fd=7, generics={"2:0:1:3": "/dev/sg5"})
    return Runtime(accel="tcg", run_dir=RUNTIME.run_dir, monitor_fd=7, graphics=RUNTIME.graphics, now=RUNTIME.now)


def document(name: str) -> Domain:
    return Domain.from_xml((GOLDEN / f"{name}.xml").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_golden_completed(name: str, binary: Binary, host: Host) -> None:
    full = complete(document(name), binary, host)
    text = full.to_xml(secure=True)
    expect(GOLDEN / f"{name}.complete.xml", text + "\n")
    assert complete(full, binary, host).to_xml(secure=True) == text, "completing twice changes something"
    assert Domain.from_xml(text).to_xml(secure=True) == text
    validate_schema(text)


@pytest.mark.parametrize("name", NAMES)
def test_golden_arguments(name: str, binary: Binary, host: Host) -> None:
    full = complete(document(name), binary, host)
    planned = plan(full, binary, runtime_of(name))
    lines: list[str] = []
    fds = {part.id: 20 + number for number, part in enumerate(planned.parts) if part.kind in ("fdset", "fd")}
    for word in argv(planned, fds):
        if word.startswith("-") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    lines = [line.replace(str(CODE), "CORRAL") for line in lines]
    lines += [f"# setup: {command} {arguments}" for command, arguments in planned.setup]
    expect(GOLDEN / f"{name}.args", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", NAMES)
def test_golden_live_documents_validate(name: str, binary: Binary, host: Host) -> None:
    runtime = runtime_of(name)
    live = settle(complete(document(name), binary, host), runtime)
    live.id = 1
    validate_schema(re.sub(r"\s*<alias name='smartcard\d'/>", "", live.to_xml()))  # the schema forgets it
    assert settle(live, runtime).to_xml() == live.to_xml(), "settling twice changes something"
    assert plan(live, binary, runtime) == plan(complete(document(name), binary, host), binary, runtime)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_wrote_is_forgotten(name: str, binary: Binary, host: Host) -> None:
    """The live document, defined again, is the definition it came from, but for image chains and listen addresses."""
    full = complete(document(name), binary, host)
    live = settle(full, runtime_of(name))
    live.id = 7
    again = Domain.from_xml(live.to_xml(secure=True))
    forget(again, RUNTIME.run_dir.parent)
    again = complete(again, binary, host)
    for each in (full, again):
        for drive in each.devices.disks:
            drive.backing_store = None
        for display in each.devices.graphics:
            display.listen = None
            display.listens = []
            if display.autoport != "yes":
                display.port = None  # a start takes the port that the document names; this runtime gives another
    assert again.to_xml(secure=True) == full.to_xml(secure=True)
