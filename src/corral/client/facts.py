"""What a host says about itself, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from corral.errors import InternalError


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A host's CPUs and memory (KiB), as virNodeInfo has them."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


@dataclass(frozen=True, slots=True)
class Version:
    """Versions as `major.minor.micro`: of the API that the daemon offers, and of its QEMU."""

    api: str
    qemu: str


def node_info(answer: Any) -> NodeInfo:
    """From NODE_GET_INFO's answer."""
    fields = {name: getattr(answer, name) for name in NodeInfo.__slots__ if name != "model"}
    return NodeInfo(model=_text(answer.model), **fields)


def _text(model: Any) -> str:
    if isinstance(model, str):
        return model.split("\0", 1)[0]
    return bytes(value & 0xFF for value in model).split(b"\0", 1)[0].decode(errors="replace")


def version(library: int, hypervisor: int) -> Version:
    """From libvirt's numbers: major × 1,000,000 + minor × 1,000 + micro."""
    return Version(_dotted(library), _dotted(hypervisor))


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def domain_types(capabilities: str) -> list[str]:
    """The domain types that the capabilities document offers for the host's own architecture, `kvm` first."""
    try:
        root = ElementTree.fromstring(capabilities)
    except ElementTree.ParseError as error:
        raise InternalError(f"the daemon's capabilities are not XML: {error}") from error
    native = host_architecture(root)
    found = {
        domain.get("type", "")
        for arch in root.iterfind("guest/arch")
        if native in (None, arch.get("name"))
        for domain in arch.iterfind("domain")
    }
    return sorted(found, key=lambda name: (name != "kvm", name))


def host_architecture(capabilities: ElementTree.Element) -> str | None:
    """The host's architecture, such as `x86_64`."""
    return capabilities.findtext("host/cpu/arch")
