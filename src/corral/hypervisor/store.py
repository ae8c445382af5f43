"""The store: every definition and every running domain, in one SQLite file, one transaction a change.

`domains` is what a user defined, `live` is what the next daemon must know of each QEMU process to recognise it, finish
or undo what was half done with it, and go on. A write is acknowledged when its transaction is committed; definitions
are also forced to the disk (they outlive a power cut), live rows need only outlive the daemon (no process survives a
power cut either). All access is from one thread of the store's own.

Phases of a live row: `starting` (QEMU may or may not exist; nobody was told that it runs: undo), `running`, and
`stopping` (someone asked for its end: finish, with the row's `stop_reason`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar
from uuid import UUID

from corral.errors import HostError, StoreDamaged
from corral.hypervisor import state_lock
from corral.hypervisor.pools import pool_rows

T = TypeVar("T")

APPLICATION_ID = 0x436F7272  # "Corr", so that file(1) and we can tell the store from any other SQLite file
SCHEMA_VERSION = 3
#: The first schema; MIGRATIONS say how it became what it is.
SCHEMA = """
CREATE TABLE domains (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    xml TEXT NOT NULL,
    autostart INTEGER NOT NULL DEFAULT 0,
    shutoff_reason INTEGER NOT NULL DEFAULT 0,
    last_boot TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE live (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    id INTEGER NOT NULL UNIQUE,
    phase TEXT NOT NULL CHECK (phase IN ('starting', 'running', 'stopping')),
    boot TEXT NOT NULL,
    base_xml TEXT NOT NULL,
    xml TEXT NOT NULL DEFAULT '',
    pid INTEGER NOT NULL DEFAULT 0,
    start_time INTEGER NOT NULL DEFAULT 0,
    log_offset INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0,
    reason INTEGER NOT NULL DEFAULT 0,
    start_paused INTEGER NOT NULL DEFAULT 0,
    autodestroy INTEGER NOT NULL DEFAULT 0,
    fake_reboot INTEGER NOT NULL DEFAULT 0,
    stop_reason INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO meta VALUES ('next_id', '1');
"""
#: Schema version → what makes the next one of it.
MIGRATIONS = {
    1: pool_rows.SCHEMA,
    2: """
ALTER TABLE live ADD COLUMN run TEXT NOT NULL DEFAULT '';
ALTER TABLE live ADD COLUMN log TEXT NOT NULL DEFAULT '';
""",
}

Phase = Literal["starting", "running", "stopping"]


@dataclass(frozen=True, slots=True)
class DefinitionRow:
    """One defined domain; `last_boot` is the boot id of the host when it last ran."""

    uuid: UUID
    name: str
    xml: str
    autostart: bool = False
    shutoff_reason: int = 0
    last_boot: str = ""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One domain that runs, or is about to, or is about to end; `id` 0 asks `add_live` for the next one.

    `base_xml` is its document as started, `xml` the same with what only a running domain has; `log_offset` is where
    this run's part of QEMU's log begins; `pid` is 0 until the process is known. `run` and `log` are the directories of
    the daemon that started it ('': one that did not write them down): the next daemon's may be others.
    """

    uuid: UUID
    name: str
    id: int
    phase: Phase
    boot: str
    base_xml: str
    xml: str = ""
    pid: int = 0
    start_time: int = 0
    log_offset: int = 0
    state: int = 0
    reason: int = 0
    start_paused: bool = False
    autodestroy: bool = False
    fake_reboot: bool = False
    stop_reason: int = 0
    run: str = ""
    log: str = ""


_LIVE_COLUMNS = tuple(field.name for field in fields(LiveRow))
_LIVE_FLAGS = ("start_paused", "autodestroy", "fake_reboot")


class Store:
    """The open store. Methods are awaited until committed; HostError when the disk refuses, with nothing changed."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection, executor: ThreadPoolExecutor) -> None:
        self.path = path
        self._lock = lock
        self._connection = connection
        self._executor = executor
        self._synchronous = ""

    @classmethod
    async def open(cls, path: Path, *, temporary: bool = False) -> Store:
        """Open or make the store at `path`; a `temporary` daemon makes way for one that is not (`state_lock`).

        Raises ResourceBusy when another daemon has it, StoreDamaged when it cannot be read or a newer Corral wrote it.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            lock, connection = await asyncio.get_running_loop().run_in_executor(executor, _open, path, temporary)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(path, lock, connection, executor)

    async def close(self) -> None:
        """Finish what was asked and close the file."""
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
            self._executor.shutdown()

    def _close(self) -> None:
        self._connection.close()
        os.close(self._lock)

    async def transaction(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Run `work` as one transaction, for the modules that keep tables of their own (`pool_rows`)."""
        return await self._transaction(work, durable=durable)

    async def _transaction(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Run `work` as one transaction in the store's thread; it is committed even if our caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._executor, self._transact, work, durable))

    def _transact(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> T:
        connection = self._connection
        synchronous = "FULL" if durable else "NORMAL"
        try:
            if synchronous != self._synchronous:
                connection.execute(f"PRAGMA synchronous={synchronous}")
                self._synchronous = synchronous
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result
        except sqlite3.DatabaseError as error:
            raise _explained(self.path, error) from error

    async def load(self) -> tuple[list[DefinitionRow], list[LiveRow]]:
        """Everything, at the start."""

        def work(connection: sqlite3.Connection) -> tuple[list[DefinitionRow], list[LiveRow]]:
            definitions = [
                DefinitionRow(UUID(uuid), name, xml, bool(autostart), reason, last_boot)
                for uuid, name, xml, autostart, reason, last_boot in connection.execute(
                    "SELECT uuid, name, xml, autostart, shutoff_reason, last_boot FROM domains"
                )
            ]
            live = []
            for row in connection.execute(f"SELECT {', '.join(_LIVE_COLUMNS)} FROM live"):
                values = dict(zip(_LIVE_COLUMNS, row, strict=True))
                values["uuid"] = UUID(values["uuid"])
                values.update({flag: bool(values[flag]) for flag in _LIVE_FLAGS})
                live.append(LiveRow(**values))
            return definitions, live

        return await self._transaction(work, durable=False)

    async def define(self, uuid: UUID, name: str, xml: str) -> None:
        """Add a definition, or replace the one with that UUID (its autostart and history stay)."""
        await self._transaction(
            lambda connection: connection.execute(
                "INSERT INTO domains (uuid, name, xml) VALUES (?, ?, ?)"
                " ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, xml = excluded.xml",
                (str(uuid), name, xml),
            ),
            durable=True,
        )

    async def undefine(self, uuid: UUID) -> None:
        """Remove a definition."""
        await self._transaction(
            lambda connection: connection.execute("DELETE FROM domains WHERE uuid = ?", (str(uuid),)), durable=True
        )

    async def set_autostart(self, uuid: UUID, autostart: bool) -> None:
        """Mark a definition to be started with the host."""
        await self._transaction(
            lambda connection: connection.execute(
                "UPDATE domains SET autostart = ? WHERE uuid = ?", (int(autostart), str(uuid))
            ),
            durable=True,
        )

    async def add_live(self, row: LiveRow) -> int:
        """Write the row of a start that is about to happen; returns its id, which was never used before."""

        def work(connection: sqlite3.Connection) -> int:
            (value,) = connection.execute("SELECT value FROM meta WHERE key = 'next_id'").fetchone()
            domain_id = int(value)
            connection.execute("UPDATE meta SET value = ? WHERE key = 'next_id'", (str(domain_id + 1),))
            values = {name: getattr(row, name) for name in _LIVE_COLUMNS}
            values |= {"uuid": str(row.uuid), "id": domain_id} | {flag: int(values[flag]) for flag in _LIVE_FLAGS}
            # A row that could not be removed when its run ended (a full disk) is in nobody's way.
            connection.execute("DELETE FROM live WHERE uuid = ? OR name = ?", (str(row.uuid), row.name))
            marks = ", ".join(f":{name}" for name in _LIVE_COLUMNS)
            connection.execute(f"INSERT INTO live ({', '.join(_LIVE_COLUMNS)}) VALUES ({marks})", values)
            connection.execute("UPDATE domains SET last_boot = ? WHERE uuid = ?", (row.boot, str(row.uuid)))
            return domain_id

        return await self._transaction(work, durable=False)

    async def update_live(self, domain_id: int, **columns: int | str) -> None:
        """Change columns of the live row with that id; nothing happens when it is gone."""
        unknown = columns.keys() - set(_LIVE_COLUMNS)
        if unknown:
            raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        await self._transaction(
            lambda connection: connection.execute(
                f"UPDATE live SET {assignments} WHERE id = :key", {**columns, "key": domain_id}
            ),
            durable=False,
        )

    async def remove_live(self, uuid: UUID, domain_id: int, shutoff_reason: int) -> None:
        """The domain has ended: forget its process, remember why it is off (a transient domain is gone thereby)."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM live WHERE id = ?", (domain_id,))
            connection.execute("DELETE FROM meta WHERE key = ?", (_plug_key(domain_id),))
            connection.execute("UPDATE domains SET shutoff_reason = ? WHERE uuid = ?", (shutoff_reason, str(uuid)))

        await self._transaction(work, durable=False)

    async def set_metadata(self, uuid: UUID, *, xml: str | None, live_xml: str | None, base_xml: str | None) -> None:
        """Replace the definition's document, the running domain's two, or all, in one transaction."""

        def work(connection: sqlite3.Connection) -> None:
            if xml is not None:
                connection.execute("UPDATE domains SET xml = ? WHERE uuid = ?", (xml, str(uuid)))
            if live_xml is not None and base_xml is not None:
                connection.execute(
                    "UPDATE live SET xml = ?, base_xml = ? WHERE uuid = ?", (live_xml, base_xml, str(uuid))
                )

        await self._transaction(work, durable=xml is not None)

    async def begin_plug(self, domain_id: int, plug: str) -> None:
        """Note what is about to be changed in the machine of the live row with that id, for a daemon that finds it."""
        await self.set_meta(_plug_key(domain_id), plug)

    async def plug(self, domain_id: int) -> str | None:
        """The change of that machine that was begun and of which the end is not known."""
        return await self.meta(_plug_key(domain_id))

    async def end_plug(
        self,
        domain_id: int,
        *,
        live_xml: str | None = None,
        base_xml: str | None = None,
        definition: tuple[UUID, str] | None = None,
    ) -> None:
        """The change has ended: forget that it was begun, and replace the documents given, in one transaction.

        `definition` is UUID and document of the domain's definition.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM meta WHERE key = ?", (_plug_key(domain_id),))
            if live_xml is not None:
                connection.execute("UPDATE live SET xml = ? WHERE id = ?", (live_xml, domain_id))
            if base_xml is not None:
                connection.execute("UPDATE live SET base_xml = ? WHERE id = ?", (base_xml, domain_id))
            if definition is not None:
                connection.execute("UPDATE domains SET xml = ? WHERE uuid = ?", (definition[1], str(definition[0])))

        await self._transaction(work, durable=definition is not None)

    async def meta(self, key: str) -> str | None:
        """A fact of the store's own."""

        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return str(row[0]) if row else None

        return await self._transaction(work, durable=False)

    async def metas(self, prefix: str) -> dict[str, str]:
        """All facts of the store's own whose keys begin so."""

        def work(connection: sqlite3.Connection) -> dict[str, str]:
            rows = connection.execute("SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
            return {str(key): str(value) for key, value in rows}

        return await self._transaction(work, durable=False)

    async def drop_meta(self, key: str) -> None:
        """Forget a fact of the store's own."""
        await self._transaction(
            lambda connection: connection.execute("DELETE FROM meta WHERE key = ?", (key,)), durable=False
        )

    async def set_meta(self, key: str, value: str) -> None:
        """Write a fact of the store's own."""
        await self._transaction(
            lambda connection: connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)),
            durable=False,
        )


def _plug_key(domain_id: int) -> str:
    return f"plug of {domain_id}"


def _open(path: Path, temporary: bool) -> tuple[int, sqlite3.Connection]:
    """Lock and open the file, in the store's thread; a new one gets its schema, a foreign one is not changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HostError(f"cannot open the store {path}: {error.strerror}") from error
    lock = state_lock.acquire(path.with_name(path.name + ".lock"), temporary=temporary)
    try:
        return lock, _connect(path)
    except BaseException:
        os.close(lock)
        raise


def _connect(path: Path) -> sqlite3.Connection:
    try:
        if path.exists() and path.stat().st_size:
            _inspect(path)
        else:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # it holds passwords
        connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    except OSError as error:
        raise HostError(f"cannot open the store {path}: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        raise _explained(path, error) from error
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA cache_size=-512")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < SCHEMA_VERSION:
            # One script, one transaction: a daemon killed in here leaves the file as it was, and the next begins again.
            script = "" if version else SCHEMA
            script += "".join(MIGRATIONS[step] for step in range(max(version, 1), SCHEMA_VERSION))
            connection.executescript(
                f"BEGIN IMMEDIATE; {script} PRAGMA application_id={APPLICATION_ID};"
                f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        for (problem,) in connection.execute("PRAGMA quick_check(3)"):
            if problem != "ok":
                raise StoreDamaged(f"the store {path} is damaged: {problem}", hint=_ADVICE)
        return connection
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _explained(path, error) from error
    except BaseException:
        connection.close()
        raise


_ADVICE = "move the file away or put back a copy of it, then start the daemon again; running machines are not touched"


def _inspect(path: Path) -> None:
    """Refuse a file that is not ours or newer than we are, before anything writes to it."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise StoreDamaged(f"the store {path} is not a store of Corral's", hint=_ADVICE)
    # A store whose journal is not yet folded in may say less in its head than in the journal, so ask SQLite.
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreDamaged(f"the store {path} is not a store of Corral's", hint=_ADVICE)
    if version > SCHEMA_VERSION:
        raise StoreDamaged(
            f"the store {path} was written by a newer Corral (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="install that version again, or start with another state directory",
        )


def _explained(path: Path, error: sqlite3.DatabaseError) -> HostError | StoreDamaged:
    if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError) and "malformed" not in str(error):
        return HostError(f"cannot write to the store {path}: {error}")
    return StoreDamaged(f"the store {path} cannot be read: {error}", hint=_ADVICE)
