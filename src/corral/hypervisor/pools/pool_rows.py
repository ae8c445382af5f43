"""What the store keeps of storage pools: definitions, which are active, and files that are being made.

A pool's row lives while it is defined or active. `xml` is its definition ('' when it has none), `live_xml` what it was
started with ('' when it is not active), `boot` the boot id of the host in which that was: after a reboot nothing is
active. A file is in `making` from its creation until it is complete, so that the next daemon removes what a killed one
left half made, and nothing else: device and inode must be the same.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from corral.hypervisor.store import Store

SCHEMA = """
CREATE TABLE pools (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    xml TEXT NOT NULL,
    live_xml TEXT NOT NULL,
    boot TEXT NOT NULL,
    autostart INTEGER NOT NULL
) STRICT;
CREATE TABLE making (path TEXT PRIMARY KEY, device TEXT NOT NULL, inode TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One pool."""

    uuid: UUID
    name: str
    xml: str
    live_xml: str
    boot: str
    autostart: bool


@dataclass(frozen=True, slots=True)
class Making:
    """A file that was not complete when it was last heard of."""

    path: Path
    device: int
    inode: int


async def load(store: Store) -> tuple[list[PoolRow], list[Making]]:
    """Everything, at the start."""

    def work(connection: sqlite3.Connection) -> tuple[list[PoolRow], list[Making]]:
        pools = [
            PoolRow(UUID(uuid), name, xml, live_xml, boot, bool(autostart))
            for uuid, name, xml, live_xml, boot, autostart in connection.execute(
                "SELECT uuid, name, xml, live_xml, boot, autostart FROM pools"
            )
        ]
        making = [
            Making(Path(path), int(device), int(inode))
            for path, device, inode in connection.execute("SELECT path, device, inode FROM making")
        ]
        return pools, making

    return await store.transaction(work, durable=False)


async def put(store: Store, row: PoolRow) -> None:
    """Write a pool's row; one that is neither defined nor active is removed."""

    def work(connection: sqlite3.Connection) -> None:
        if not row.xml and not row.live_xml:
            connection.execute("DELETE FROM pools WHERE uuid = ?", (str(row.uuid),))
            return
        connection.execute(
            "INSERT OR REPLACE INTO pools VALUES (?, ?, ?, ?, ?, ?)",
            (str(row.uuid), row.name, row.xml, row.live_xml, row.boot, int(row.autostart)),
        )

    await store.transaction(work, durable=True)


async def begin_making(store: Store, making: Making) -> None:
    """A file was made and is empty: until `end_making` it is nothing to keep."""
    row = (str(making.path), str(making.device), str(making.inode))
    await store.transaction(
        lambda connection: connection.execute("INSERT OR REPLACE INTO making VALUES (?, ?, ?)", row), durable=False
    )


async def end_making(store: Store, path: Path) -> None:
    """The file is complete, or gone. Durable: a power cut must not bring the row back and so cost a good file."""
    await store.transaction(
        lambda connection: connection.execute("DELETE FROM making WHERE path = ?", (str(path),)), durable=True
    )
