"""The order of a redirection's packets, as tables; `connection.py` runs them.

What the usbredir protocol document says, and what is made of it here:

* Both sides say hello at once and once; nothing comes before the peer's hello. It has a 32-bit id, as the peer's
  capabilities are not known when it is sent ("usb_redir_hello").
* The host announces a device: EpInfo, then InterfaceInfo, then DeviceConnect ("usb_redir_device_connect"). From then on
  the guest may ask for things; it is told of new endpoints and interfaces before the answer that they belong to.
* A data packet of the guest has exactly one answer of the same type and id, cancelled or not
  ("usb_redir_cancel_data_packet"); so have the configuration, alternate setting and bulk stream requests. An answer
  that nobody asked for and an id that is in use end the connection: the two sides disagree about what was said.
  The id of a cancelled packet is free at once: QEMU makes ids of the places of the guest's descriptors, and a guest
  that tries a transfer again has the same.
* Interrupt and isochronous packets from the device and buffered bulk packets come unasked, and so do the statuses that
  tell of a stream's end.
* After DeviceDisconnect packets for the old device may be under way. They are dropped until the guest acknowledges, or
  for good if the two sides cannot ("usb_redir_device_disconnect_ack").
* What is malformed, unknown, too long, of the wrong side or out of order ends the connection with one error.

Phases: HELLO (the peer has not spoken), IDLE (there is no device), CONNECTED, and for the host LEAVING (it has said
that the device is gone, and the guest may not know yet).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from corral.usb import packets as p

if TYPE_CHECKING:
    from corral.usb.packets import Packet, Side


class Phase(Enum):
    """Where a connection is."""

    HELLO = "before the hello"
    IDLE = "without a device"
    CONNECTED = "with a device"
    LEAVING = "while the device leaves"


_DEVICE_REQUESTS: frozenset[type[Packet]] = frozenset(
    {
        *(p.Reset, p.SetConfiguration, p.GetConfiguration, p.SetAltSetting, p.GetAltSetting),
        *(p.StartIsoStream, p.StopIsoStream, p.StartInterruptReceiving, p.StopInterruptReceiving),
        *(p.AllocBulkStreams, p.FreeBulkStreams, p.CancelDataPacket, p.StartBulkReceiving, p.StopBulkReceiving),
        *(p.ControlPacket, p.BulkPacket, p.IsoPacket, p.InterruptPacket),
    }
)

_DEVICE_ANSWERS: frozenset[type[Packet]] = frozenset(
    {
        *(p.ConfigurationStatus, p.AltSettingStatus, p.IsoStreamStatus, p.InterruptReceivingStatus),
        *(p.BulkStreamsStatus, p.BulkReceivingStatus),
        *(p.ControlPacket, p.BulkPacket, p.IsoPacket, p.InterruptPacket, p.BufferedBulkPacket),
    }
)

_ANY: frozenset[type[Packet]] = frozenset({p.FilterFilter})
_ANNOUNCE: frozenset[type[Packet]] = frozenset({p.EpInfo, p.InterfaceInfo})

SENDABLE: dict[Side, dict[Phase, frozenset[type[Packet]]]] = {
    "guest": {
        Phase.HELLO: frozenset(),
        # A filter may reject by the interfaces alone, before the device is connected.
        Phase.IDLE: _ANY | {p.FilterReject},
        Phase.CONNECTED: _ANY | _DEVICE_REQUESTS | {p.FilterReject},
        # What was under way when the device left: read, and dropped but for the acknowledgement.
        Phase.LEAVING: _ANY | _DEVICE_REQUESTS | {p.FilterReject, p.DeviceDisconnectAck},
    },
    "host": {
        Phase.HELLO: frozenset(),
        Phase.IDLE: _ANY | _ANNOUNCE | {p.DeviceConnect},
        Phase.CONNECTED: _ANY | _ANNOUNCE | _DEVICE_ANSWERS | {p.DeviceDisconnect},
        Phase.LEAVING: _ANY | _ANNOUNCE | {p.DeviceConnect},
    },
}
"""side that sends → phase of the connection → the packets that belong there (hello apart)."""

ANSWER: dict[type[Packet], type[Packet]] = {
    p.SetConfiguration: p.ConfigurationStatus,
    p.GetConfiguration: p.ConfigurationStatus,
    p.SetAltSetting: p.AltSettingStatus,
    p.GetAltSetting: p.AltSettingStatus,
    p.AllocBulkStreams: p.BulkStreamsStatus,
    p.FreeBulkStreams: p.BulkStreamsStatus,
    p.ControlPacket: p.ControlPacket,
    p.BulkPacket: p.BulkPacket,
    p.InterruptPacket: p.InterruptPacket,
}
"""Requests of the guest that have exactly one answer with their id."""

ANSWERS = frozenset(ANSWER.values())

CANCELLED: tuple[type[Packet], ...] = (p.ControlPacket, p.BulkPacket, p.InterruptPacket)
"""What CancelDataPacket may be for."""
