"""Changing a display while it is open: its password, and until when that is good. All else is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.errors import DeviceMissing, InvalidArgument, OperationUnsupported
from corral.hypervisor.hotplug.device_changes import Change, Edit, carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.graphics import Graphics, Listen
    from corral.model.domain import Domain as DomainDocument

PASSWORD = ("passwd", "passwd_valid_to", "connected")
PORTS = ("port", "tls_port", "autoport", "websocket")


def find(document: DomainDocument, wanted: Graphics) -> Graphics:
    """The display of that type, of which there is one at most; DeviceMissing where there is none."""
    for display in document.devices.graphics:
        if display.type == wanted.type:
            return display
    raise DeviceMissing(f"cannot find existing graphics device to modify of type '{wanted.type}'")


def put(document: DomainDocument, new: Graphics) -> None:
    """Put a display in the place of the one of its kind; InvalidArgument, as libvirt has it, where there is none."""
    try:
        old = find(document, new)
    except DeviceMissing as error:
        raise InvalidArgument(f"cannot find existing graphics type '{new.type}' device to modify") from error
    document.devices.graphics = [new if each is old else each for each in document.devices.graphics]


async def update(domain: Domain, run: Run, wanted: Graphics, config: Edit | None) -> None:
    """Give a display another password, or another time for it."""
    from corral.model import displays
    from corral.qemu.devices import graphics

    display = find(run.live.document, wanted)
    for _, message, error in displays.of_display(wanted):
        raise error(message)
    for name in _differences(display, wanted):
        kind = f"'{wanted.type}'" if name.startswith("listen") else wanted.type  # libvirt's words
        raise OperationUnsupported(f"cannot change {name} setting{'s' * (name == 'port')} on {kind} graphics")
    if (display.passwd is None) != (wanted.passwd is None):
        raise OperationUnsupported(
            "a password cannot be added or removed while the display is open, only changed",
            hint="change the definition (--config) and start the machine again",
        )

    def edit(document: DomainDocument) -> None:
        changed = find(document, wanted).copy()
        for name in PASSWORD:
            setattr(changed, name, getattr(wanted, name))
        put(document, changed)

    change = Change(live=edit, base=edit, config=config)
    await carry_out(domain, run, graphics.change(wanted), change, graphics.change(display))


def _differences(old: Graphics, new: Graphics) -> Iterator[str]:
    """What the new document says otherwise; what it leaves out, and ports chosen by us, it says nothing about."""
    yield from _listening(old, new)
    for name in PORTS:
        if getattr(new, name) not in (None, -1, 0, getattr(old, name)):
            yield "port"
    for name in type(new).model_fields:
        if name in (*PASSWORD, *PORTS, "listens", "listen", "socket"):
            continue
        wanted = getattr(new, name)
        if wanted not in (None, []) and wanted != getattr(old, name):
            yield name.replace("_", " ").rstrip("s")


def _listening(old: Graphics, new: Graphics) -> Iterator[str]:
    before = old.listens[0] if old.listens else None
    if new.listen is not None and new.listen != old.listen:
        yield "listen address"
    if new.socket is not None and new.socket != old.socket:
        yield "listen socket"
    if not new.listens or before is None:
        return
    after: Listen = new.listens[0]
    if len(new.listens) != len(old.listens) or after.type != before.type:
        yield "listen type"
    for name in ("address", "network", "socket"):
        if getattr(after, name) is not None and getattr(after, name) != getattr(before, name):
            yield f"listen {name}"
