"""A serial device of a guest joined to a pseudo-terminal of this computer."""

from __future__ import annotations

import asyncio
import os
import termios
import tty

from corral.errors import HostError
from corral.usb.serial import Serial

_MOST = 16 << 10


class Pty:
    """The two ends joined for as long as this lives: programs open `path` to talk to the guest.

    Raw on both sides. Needs a running event loop; use as a context manager, or call `close`.
    """

    def __init__(self, port: Serial) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        try:
            # The terminal's own end stays open, so that the last program to close it is no end of file.
            self._master, self._slave = os.openpty()
        except OSError as error:
            raise HostError(f"no pseudo-terminal for the serial port: {error.strerror}") from error
        self.path = os.ttyname(self._slave)
        tty.setraw(self._slave, termios.TCSANOW)
        os.set_blocking(self._master, False)
        self._reading = False
        port.on_data = self._from_guest
        port.on_room = self._room
        self._room()

    def _room(self) -> None:
        if not self._reading and self._master >= 0 and self._port.room:
            self._reading = True
            self._loop.add_reader(self._master, self._readable)

    def _readable(self) -> None:
        """A program wrote: as much as the guest has room for."""
        room = min(self._port.room, _MOST)
        if not room:
            self._reading = False
            self._loop.remove_reader(self._master)
            return
        try:
            data = os.read(self._master, room)
        except BlockingIOError:
            return
        self._port.send(data)

    def _from_guest(self, data: bytes) -> bool:
        """The guest wrote: False when nobody reads the terminal and it is full."""
        if self._unsent or self._master < 0:
            return self._master < 0
        try:
            written = os.write(self._master, data)
        except BlockingIOError:
            written = 0
        if written < len(data):
            self._unsent += data[written:]
            self._loop.add_writer(self._master, self._writable)
        return True

    def _writable(self) -> None:
        try:
            del self._unsent[: os.write(self._master, self._unsent)]
        except BlockingIOError:
            return
        if not self._unsent:
            self._loop.remove_writer(self._master)
            self._port.resume()

    def close(self) -> None:
        """Take the terminal away, once."""
        if self._master < 0:
            return
        self._loop.remove_reader(self._master)
        self._loop.remove_writer(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = -1

    def __enter__(self) -> Pty:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
