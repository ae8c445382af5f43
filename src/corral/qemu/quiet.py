"""The QMP library's client without its habit of writing every message out for a debug log, read or not.

A binary's schema alone is hundreds of kilobytes: indented in Python, it left the daemon two mebibytes larger for good.
"""

from __future__ import annotations

import logging

from qemu.qmp import Message, QMPClient


class QuietClient(QMPClient):
    """A client that writes messages out only for a log of that level."""

    def _cb_outbound(self, msg: Message) -> Message:
        return super()._cb_outbound(msg) if self.logger.isEnabledFor(logging.DEBUG) else msg

    def _cb_inbound(self, msg: Message) -> Message:
        return super()._cb_inbound(msg) if self.logger.isEnabledFor(logging.DEBUG) else msg
