"""Every procedure with arguments nobody would send: an error that says so, never a fault, and the daemon lives on."""

from __future__ import annotations

import random
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.errors import CorralError
from corral.protocol.interface import interface
from corral.protocol.procedures import all_procedures
from labs import corrald
from labs.wire import Wire

pytestmark = pytest.mark.qemu

DOCUMENT = """\
<domain type='qemu'>
  <name>{}</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><serial type='pty'/></devices>
</domain>
"""
ROUNDS = 3
TEXTS = ["", "x", "/tmp/nope", "<domain/>", "\udcff\udc80", '{"execute":"x"}', "é" * 50, "a" * 3000, "../../x", "\n"]
NUMBERS = {
    "int": [0, 1, -1, 5, 2**31 - 1, -(2**31)],
    "uint": [0, 0, 0, 1, 2, 8, 2**32 - 1],
    "hyper": [0, 1, -1, 2**63 - 1],
    "uhyper": [0, 1, 2**64 - 1],
    "uchar": [0, 255],
    "ushort": [0, 65535],
    "double": [0.0, -1.5],
}
#: They end the conversation.
LEFT_OUT = ("connect_open", "connect_close")


class Strange:
    """Makes values that fit the wire and nothing else."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.domains: list[dict[str, Any]] = []

    def struct(self, name: str) -> dict[str, Any]:
        fields = (field.split(":") for field in interface()["structs"][name].split())
        # a member whose name Python keeps for itself has another in records
        return {{"from": "from_"}.get(field, field): self.value(kind) for field, kind in fields}

    def value(self, kind: str) -> Any:
        if kind.startswith("?"):
            return None if self.random.random() < 0.4 else self.value(kind[1:])
        for opening in "[<":
            base, found, size = kind[:-1].partition(opening)
            if found and base not in ("string", "opaque"):
                if base == "char":
                    return "x"
                count = int(size) if opening == "[" else self.random.randrange(min(int(size), 3) + 1)
                return [self.value(base) for _ in range(count)]
            if found:
                return bytes(int(size)) if opening == "[" else self.plain(base)
        return self.plain(kind)

    def plain(self, kind: str) -> Any:
        facts = interface()
        if kind == "remote_nonnull_domain":
            return self.random.choice(self.domains)
        if kind in facts["typedefs"]:
            return self.value(facts["typedefs"][kind])
        if kind in facts["structs"]:
            return self.struct(kind)
        if kind in facts["enums"]:
            return self.random.choice(list(facts["enums"][kind].values()))
        if kind in facts["unions"]:
            tag = self.random.choice(list(facts["unions"][kind]))
            return int(tag), self.value(facts["unions"][kind][tag])
        if kind == "opaque":
            return b"x" * self.random.randrange(3)
        return self.random.choice(TEXTS if kind == "string" else NUMBERS[kind])


def resident(daemon: corrald.Daemon) -> int:
    """KiB."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_strange_arguments(short_path: Path) -> None:
    strange = Strange(11)
    with corrald.running(short_path) as daemon, closing(Wire(daemon.socket, "qemu:///session")) as wire:
        before = resident(daemon)
        for number in range(ROUNDS):
            for name in ("on", "off"):
                with suppress(CorralError):
                    wire.call("domain_define_xml", xml=DOCUMENT.format(name))
            domains = wire.call("connect_list_all_domains", need_results=1, flags=0).domains
            strange.domains = [{"name": d.name, "uuid": d.uuid, "id": d.id} for d in domains]
            with suppress(CorralError):
                wire.call("domain_create", dom=strange.domains[number % len(strange.domains)])
            strange.domains.append({"name": "nobody", "uuid": bytes(16), "id": 7})
            for procedure in all_procedures():
                if procedure.msg is not None or procedure.name in LEFT_OUT:
                    continue
                args = strange.struct(procedure.args) if procedure.args else {}
                try:
                    wire.call(procedure.name, **args)
                except CorralError as error:
                    text = str(error)
                    assert "the daemon's log says more" not in text, (procedure.name, args, text)
                    assert "Unable to encode" not in text, (procedure.name, args, text)
        assert wire.call("connect_get_type").type == "QEMU"
        assert resident(daemon) - before < 32 * 1024
