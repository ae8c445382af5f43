"""The store: what is acknowledged is there, what is damaged or newer is refused and not touched."""

# ruff: noqa: ASYNC240 (a test may wait for the disk)

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from corral.errors import HostError, ResourceBusy, StoreDamaged
from corral.hypervisor.store import APPLICATION_ID, MIGRATIONS, SCHEMA, SCHEMA_VERSION, LiveRow, Store

A, B = UUID(int=1), UUID(int=2)
ROW = LiveRow(uuid=A, name="a", id=0, phase="starting", boot="boot", base_xml="<domain/>", autodestroy=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "corral.sqlite"


async def test_what_was_written_is_read_again(path: Path) -> None:
    store = await Store.open(path)
    await store.define(A, "a", "<domain>1</domain>")
    await store.set_autostart(A, True)
    await store.define(A, "a", "<domain>2</domain>")
    await store.define(B, "b", "<domain/>")
    await store.undefine(B)
    await store.close()
    store = await Store.open(path)
    (definition,), live = await store.load()
    assert (definition.uuid, definition.name, definition.xml) == (A, "a", "<domain>2</domain>")
    assert definition.autostart, "a redefinition keeps autostart"
    assert live == []
    await store.close()


async def test_ids_are_never_used_twice(path: Path) -> None:
    store = await Store.open(path)
    ids = []
    for _ in range(3):
        ids.append(await store.add_live(ROW))
        await store.remove_live(A, ids[-1], 2)
    await store.close()
    store = await Store.open(path)
    ids.append(await store.add_live(ROW))
    assert ids == [1, 2, 3, 4]
    await store.close()


async def test_a_live_row_goes_through_its_phases(path: Path) -> None:
    store = await Store.open(path)
    await store.define(A, "a", "<domain/>")
    domain_id = await store.add_live(ROW)
    await store.update_live(domain_id, phase="running", pid=7, start_time=8, xml="<live/>", state=1, reason=1)
    _, (row,) = await store.load()
    assert row == replace(ROW, id=domain_id, phase="running", pid=7, start_time=8, xml="<live/>", state=1, reason=1)
    await store.update_live(domain_id + 1, phase="stopping")  # not there: nothing happens
    await store.remove_live(A, domain_id, 3)
    (definition,), live = await store.load()
    assert live == []
    assert definition.shutoff_reason == 3
    assert definition.last_boot == "boot"
    await store.close()


async def test_a_name_is_taken_once(path: Path) -> None:
    store = await Store.open(path)
    await store.define(A, "a", "<domain/>")
    with pytest.raises((HostError, StoreDamaged)):
        await store.define(B, "a", "<domain/>")
    (definition,), _ = await store.load()
    assert definition.uuid == A
    await store.close()


async def test_a_second_daemon_is_refused(path: Path) -> None:
    store = await Store.open(path)
    with pytest.raises(ResourceBusy, match="another Corral daemon"):
        await Store.open(path)
    await store.close()
    await (await Store.open(path)).close()


@pytest.mark.parametrize(
    "content",
    [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000, b"short"],
    ids=["text", "broken pages", "short"],
)
async def test_a_damaged_store_is_refused_and_not_touched(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=str(path)) as caught:
        await Store.open(path)
    assert caught.value.hint
    assert path.read_bytes() == content


async def test_a_store_with_a_broken_page_is_refused(path: Path) -> None:
    store = await Store.open(path)
    for number in range(200):
        await store.define(UUID(int=number), f"domain {number}", "<domain>" + "x" * 2000 + "</domain>")
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xa5" * 4096 * 4)
    with pytest.raises(StoreDamaged):
        await Store.open(path)


async def test_a_newer_store_is_refused_and_not_touched(path: Path) -> None:
    await (await Store.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreDamaged, match=f"newer Corral \\(schema {SCHEMA_VERSION + 1}"):
        await Store.open(path)
    assert path.read_bytes() == before


async def test_the_store_of_an_older_corral_is_taken_over(path: Path) -> None:
    """Machines that it started run on; where their sockets are it did not write down."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(f"{SCHEMA} {MIGRATIONS[1]} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=2;")
    connection.execute(
        "INSERT INTO live (uuid, name, id, phase, boot, base_xml) VALUES (?, 'a', 7, 'running', 'b', 'x')", [str(A)]
    )
    connection.commit()
    connection.close()
    for _ in range(2):
        store = await Store.open(path)
        (_, (row,)) = await store.load()
        assert (row.id, row.run, row.log) == (7, "", "")
        await store.close()


async def test_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreDamaged, match="not a store of Corral's"):
        await Store.open(path)


async def test_the_store_is_the_owners_alone(path: Path) -> None:
    await (await Store.open(path)).close()
    assert path.stat().st_mode & 0o077 == 0, "it holds passwords"


async def test_a_full_disk_changes_nothing(path: Path) -> None:
    store = await Store.open(path)
    await store.define(A, "a", "<domain/>")
    # As SQLite sees a full disk.
    await store._transaction(lambda connection: connection.execute("PRAGMA max_page_count=12"), durable=False)
    with pytest.raises(HostError, match="full"):
        await store.define(B, "b", "x" * 200_000)
    (definition,), _ = await store.load()
    assert definition.uuid == A
    await store.define(A, "a", "<domain>still works</domain>")
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from corral.hypervisor.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]))
    number = len((await store.load())[0])
    while True:
        number += 1
        await store.define(UUID(int=number), f"domain {number}", "<domain/>")
        print(number, flush=True)

asyncio.run(main())
"""


def test_sigkill_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acknowledged = 0
    for turn in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(20 + turn * 7):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout)])
        writer.wait()
        connection = sqlite3.connect(path)
        (count,) = connection.execute("SELECT count(*) FROM domains").fetchone()
        connection.close()
        assert acknowledged <= count <= acknowledged + 1
