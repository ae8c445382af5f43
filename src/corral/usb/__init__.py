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
from corral.usb.medium import Image, Medium
from corral.usb.packets import Capability, Speed, Status
from corral.usb.redirection import Redirection
from corral.usb.storage import MassStorage
from corral.usb.stream import Service, serve, serve_streams

__all__ = [
    "Capability",
    "Connection",
    "Device",
    "Filter",
    "Image",
    "Lost",
    "MassStorage",
    "Medium",
    "Redirection",
    "Rule",
    "Service",
    "Speed",
    "Stall",
    "Status",
    "serve",
    "serve_streams",
]
