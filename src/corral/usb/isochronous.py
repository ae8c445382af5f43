"""The pace of an isochronous endpoint: how many packets are due when, without a clock of its own.

USB 2.0, 5.6.4 (bus time) and 9.6.6 (bInterval); "usb_redir_start_iso_stream" of the usbredir protocol document.
"""

from __future__ import annotations

from itertools import count

from corral.usb.descriptors import Endpoint
from corral.usb.packets import Speed


class Stream:
    """An isochronous stream since `now`: packets move by the `per_urb`, and what is `urbs` of those late is lost."""

    def __init__(self, endpoint: Endpoint, speed: Speed, per_urb: int, urbs: int, now: float) -> None:
        self.endpoint = endpoint.address
        # Bits 11 and 12 are further transactions in a microframe (9.6.6).
        self.size = (endpoint.max_packet & 0x7FF) * (1 + (endpoint.max_packet >> 11 & 3))
        self.ids = count()
        self._per_urb = per_urb
        self._urbs = urbs
        self._period = per_urb * _interval(endpoint.interval, speed)
        self.next = now + self._period
        """When the next packets are due."""

    def due(self, now: float) -> int:
        """Packets that are due now; `next` is later then."""
        late = int((now - self.next) / self._period) + 1 if now >= self.next else 0
        self.next += late * self._period
        return min(late, self._urbs) * self._per_urb


def _interval(interval: int, speed: Speed) -> float:
    """Seconds between two packets: a power of two of frames, or of microframes (9.6.6)."""
    frame = 0.001 if speed in (Speed.LOW, Speed.FULL) else 0.000125
    return frame * float(2 ** (min(max(interval, 1), 16) - 1))
