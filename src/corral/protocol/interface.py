"""The facts of the wire, loaded from `data/*.json` when first asked for.

`libvirt.json` holds libvirt 11.3's programs, `corral.json` ours. Both have the same sections:

* `programs`: name → [number, version].
* `procedures`: [program, number, name, args, ret, msg, acl, stream, priority]; acl is a space-separated list.
* `structs`: name → its fields in wire order, `name:type` separated by spaces.
* `typedefs`: name → type. `enums`: name → {member: value}. `unions`: name → {tag: type}; the tag is an int on the wire.

A type is a name (`int`, `uint`, `hyper`, `uhyper`, `double`, `char`, `uchar`, `ushort`, `string`, `opaque`, or one
declared here), followed by `[n]` for exactly n of them or `<n>` for at most n; a leading `?` says optional.
Notation after RFC 4506 (XDR), section 4.
"""

from __future__ import annotations

from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROGRAMS: dict[str, tuple[int, int]] = {
    "REMOTE": (0x20008086, 1),
    "QEMU": (0x20008087, 1),
    "CORRAL": (0x20008C0A, 1),
}
"""The programs whose procedures are declared as data: name → (number, version)."""

KEEPALIVE = (0x6B656570, 1)
"""The keepalive program: number and version. It has two messages, PING 1 and PONG 2, and no procedures."""

LENGTH_SIZE = 4
HEADER_SIZE = 24
MESSAGE_MAX = 33_554_432
"""Bytes of header and payload together; the length word comes on top (VIR_NET_MESSAGE_MAX)."""
STREAM_CHUNK = 262_120
"""Bytes of data in one stream packet that every libvirt accepts (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX)."""
FDS_MAX = 32
"""File descriptors that one message may carry (VIR_NET_MESSAGE_NUM_FDS_MAX)."""


@lru_cache(maxsize=1)
def interface() -> dict[str, Any]:
    """Both data files as one: section → content."""
    import json
    from pathlib import Path

    merged: dict[str, Any] = {}
    data = Path(__file__).with_name("data")
    for name in ("libvirt.json", "corral.json"):
        for section, content in json.loads((data / name).read_bytes()).items():
            if isinstance(content, list):
                merged.setdefault(section, []).extend(content)
            else:
                merged.setdefault(section, {}).update(content)
    return merged
