"""The usbredir protocol without I/O, and USB devices written in Python.

class Stick(usb.MassStorage):
    name = "Backup"

service = await usb.serve(Stick(Path("backup.img")), Path("/run/…/usbredir.sock"))
…
service.unplug()
await service.ended()
"""

from __future__ import annotations

from corral.usb.connection import Connection, Lost
from corral.usb.device import Device, Stall
from corral.usb.filter import Filter, Rule
from corral.usb.hid import Keyboard, Tablet
from corral.usb.medium import Image, Medium
from corral.usb.packets import Capability, Speed, Status
from corral.usb.pty import Pty
from corral.usb.redirection import Redirection
from corral.usb.serial import Serial
from corral.usb.storage import MassStorage
from corral.usb.stream import Service, serve, serve_streams

__all__ = [
    "Capability",
    "Connection",
    "Device",
    "Filter",
    "Image",
    "Keyboard",
    "Lost",
    "MassStorage",
    "Medium",
    "Pty",
    "Redirection",
    "Rule",
    "Serial",
    "Service",
    "Speed",
    "Stall",
    "Status",
    "Tablet",
    "serve",
    "serve_streams",
]
