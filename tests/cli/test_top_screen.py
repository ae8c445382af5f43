"""The live screen, driven by keys without a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.client.peer import Peer, serving
from textual.widgets import DataTable, Static

from corral.cli.top import Order
from corral.cli.top_screen import Screen
from corral.errors import NoConnect


class Host:
    """Two machines whose counters grow by what each call adds: `web` runs, `db` waits and writes."""

    def __init__(self) -> None:
        self.calls = 0

    def answer(self, session: Any, args: Any) -> dict[str, Any]:
        self.calls += 1
        now = self.calls * 1_000_000_000
        return {
            "retStats": [
                _machine("web", 1, {"cpu.time": now, "vcpu.0.time": now, "vcpu.0.delay": 0, "block.0.wr.bytes": 0}),
                _machine("db", 2, {"cpu.time": 0, "vcpu.0.time": 0, "vcpu.0.delay": now, "block.0.wr.bytes": now}),
            ]
        }


def _machine(name: str, number: int, figures: dict[str, int]) -> dict[str, Any]:
    fixed = {"state.state": 1, "vcpu.current": 1, "vcpu.maximum": 1, "balloon.current": 1 << 20, "block.count": 1}
    params = [{"field": field, "value": (4, value)} for field, value in (fixed | figures).items()]
    return {"dom": {"name": name, "uuid": bytes([number] * 16), "id": number}, "params": params}


def names(screen: Screen) -> list[str]:
    table = screen.query_one(DataTable)
    return [str(table.get_row_at(number)[0]) for number in range(table.row_count)]


@pytest.fixture
def host(peer: Peer) -> Host:
    host = Host()
    peer.answers["connect_get_all_domain_stats"] = host.answer
    return host


async def test_keys_sort_and_show(peer: Peer, host: Host, short_path: Path) -> None:
    async with serving(peer, short_path / "t") as uri:
        screen = Screen(uri, delay=0.1, order=Order.use, vcpus=False, guests=False)
        async with screen.run_test(size=(140, 20)) as pilot:
            await _until(pilot, lambda: screen.query_one(DataTable).row_count == 2)
            assert names(screen) == ["web", "db"]
            await pilot.press("s")
            assert names(screen) == ["db", "web"]
            await pilot.press("u")
            assert names(screen) == ["web", "db"]
            await pilot.press("d")
            assert names(screen) == ["db", "web"]
            await pilot.press("v")
            assert names(screen) == ["db", "  vcpu 0", "web", "  vcpu 0"]
            assert "2 machines" in str(screen.query_one("#sums", Static).render())
            await pilot.press("q")


async def test_no_daemon_is_said_at_the_end(short_path: Path) -> None:
    screen = Screen(
        f"qemu+unix:///session?socket={short_path}/none", delay=0.1, order=Order.use, vcpus=False, guests=False
    )
    async with screen.run_test() as pilot:
        await _until(pilot, lambda: screen._failure is not None)
    assert isinstance(screen._failure, NoConnect)


async def _until(pilot: Any, condition: Any) -> None:
    for _ in range(100):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("it never came")
