"""What works on this host and what does not, as rows for `corral doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.hypervisor.settings import Settings


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: `ok` is True (works), False (does not) or None (cannot be known here, or optional).

    `hint` says what to do about it, "" when nothing.
    """

    name: str
    ok: bool | None
    text: str
    hint: str = ""


async def report(settings: Settings) -> list[Row]:
    """Accelerator, QEMU, the sixteen capabilities and the optional programs."""
    raise NotImplementedError
