"""What a guest answers to a plug or an unplug: QEMU's events, handed to whoever waits for that device.

An answer is "" for "done", else the guest's reason for refusing. Status codes: ACPI 6.5, table 6.14 (_OST).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corral.hypervisor.run import Run

#: _OST's sources: a notification about a new device, one asking to eject, and ejection that the guest began itself.
_INSERTION, _EJECT_REQUEST, _EJECTION = (0, 1), 3, 0x103
_IN_PROGRESS = 0x84
#: Part of the reason of a guest that may think better of it soon.
BUSY = "the device is busy"
_REASONS = {
    1: "it failed",
    2: "it does not know the request",
    0x80: "it does not allow ejection",
    0x81: "the device is in use",
    0x82: BUSY,
    0x83: "something that depends on the device is busy",
}


def expect(run: Run, alias: str) -> asyncio.Future[str]:
    """The guest's next answer about the device; `forget` it when nobody waits any more."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run.answers[alias] = future
    return future


def forget(run: Run, alias: str) -> None:
    """Nobody waits for an answer about this device any more."""
    run.answers.pop(alias, None)


def answered(run: Run, alias: str, answer: str) -> bool:
    """Hand an answer on; False when nobody waits for it."""
    future = run.answers.get(alias)
    if future is None or future.done():
        return False
    future.set_result(answer)
    return True


def status_reported(run: Run, data: dict[str, Any]) -> int | None:
    """ACPI_DEVICE_OST: the guest has taken notice of a new device, or says why it will not let one go.

    Gives the number of a vCPU whose slot is reported empty: QEMU's own DEVICE_DELETED for it comes when nothing refers
    to the vCPU any more, with software emulation perhaps never.
    """
    info = data.get("info", {})
    alias, source, status = str(info.get("device", "")), info.get("source"), info.get("status")
    if source in _INSERTION:
        answered(run, alias, "" if status == 0 else _reason(status))
    elif source in (_EJECT_REQUEST, _EJECTION) and status == 0:
        if info.get("slot-type") == "CPU" and str(info.get("slot", "")).isdigit():
            return int(info["slot"])
    elif source in (_EJECT_REQUEST, _EJECTION) and status != _IN_PROGRESS:
        answered(run, alias, _reason(status))
    return None


def module_kept(data: dict[str, Any]) -> str | None:
    """The alias of a memory module that a guest has just said it will not let go of."""
    info = data.get("info", {})
    if info.get("slot-type") != "DIMM" or info.get("source") not in (_EJECT_REQUEST, _EJECTION):
        return None
    return str(info.get("device", "")) if info.get("status") not in (0, _IN_PROGRESS) else None


def _reason(status: object) -> str:
    text = _REASONS.get(status, "it failed") if isinstance(status, int) else "it failed"
    return f"{text} (ACPI status {status})"
