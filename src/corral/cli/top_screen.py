"""The live screen of `corral top`; the one module that imports textual."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from corral.cli.output import size
from corral.cli.top import HEADER, Order, ordered, percent, rows
from corral.client.host import connect
from corral.client.statistics import Load, Meter
from corral.errors import CorralError

KEYS = {"u": Order.use, "s": Order.steal, "m": Order.memory, "d": Order.disk, "n": Order.network, "a": Order.name}
RETRY = 2.0  # seconds before a lost daemon is called again


class Screen(App[None]):
    """A line of sums, a table, a line of keys; read anew every `delay` seconds."""

    CSS = "#sums { height: 1; background: $primary; color: $text; } DataTable { height: 1fr; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"sort('{order}')", str(order)) for key, order in KEYS.items()),
        Binding("v", "vcpus", "vCPUs"),
        Binding("g", "guests", "guests' view"),
        Binding("q", "quit", "end"),
    ]

    def __init__(self, uri: str | None, *, delay: float, order: Order, vcpus: bool, guests: bool) -> None:
        super().__init__()
        self._uri, self._delay, self._order, self._vcpus, self._guests = uri, delay, order, vcpus, guests
        self._loads: list[Load] = []
        self._failure: CorralError | None = None
        self._connected = False
        self._meter: Meter | None = None

    def show(self) -> None:
        """Run until the person ends it; raises what kept it from connecting at all."""
        self.run()
        if self._failure is not None:
            raise self._failure

    def compose(self) -> ComposeResult:
        yield Static("connecting …", id="sums")
        table: DataTable[str] = DataTable(cursor_type="row", zebra_stripes=True)
        table.add_columns(*HEADER)
        yield table
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        while True:
            try:
                async with connect(self._uri) as host:
                    self._connected = True
                    self._meter = Meter(host, guests=self._guests)
                    await self._meter.loads()
                    await asyncio.sleep(min(self._delay, 0.5))
                    while True:
                        self._loads = await self._meter.loads()
                        self._draw()
                        await asyncio.sleep(self._delay)
            except CorralError as error:
                if not self._connected:
                    self._failure = error
                    self.exit()
                    return
                self.query_one("#sums", Static).update(f"{error}; trying again")
                await asyncio.sleep(RETRY)

    def _draw(self) -> None:
        table = self.query_one(DataTable)
        row, scroll = table.cursor_row, table.scroll_y
        table.clear()
        for load in ordered(self._loads, self._order):
            for cells in rows(load, vcpus=self._vcpus):
                table.add_row(*cells)
        with suppress(Exception):  # fewer rows than there were
            table.move_cursor(row=row, scroll=False)
            table.scroll_to(y=scroll, animate=False)
        self.query_one("#sums", Static).update(self._sums())

    def _sums(self) -> str:
        loads = self._loads
        steal = max((load.steal for load in loads), default=0.0)
        return (
            f" {len(loads)} machines · {sum(load.vcpus for load in loads)} vCPUs · use "
            f"{percent(sum(load.use for load in loads))} · most stolen {percent(steal)} · memory "
            f"{size(sum(load.resident for load in loads))} of {size(sum(load.memory for load in loads))}"
            f" · by {self._order}"
        )

    def action_sort(self, order: str) -> None:
        """Sort by another figure."""
        self._order = Order(order)
        self._draw()

    def action_vcpus(self) -> None:
        """Show vCPUs, or hide them."""
        self._vcpus = not self._vcpus
        self._draw()

    def action_guests(self) -> None:
        """Ask the guests' agents, or no longer."""
        self._guests = not self._guests
        if self._meter is not None:
            self._meter.guests = self._guests

    async def action_quit(self) -> None:
        """End."""
        self.exit()

    def get_system_commands(self, screen: Any) -> Any:
        """None: every key is in the last line."""
        return ()
