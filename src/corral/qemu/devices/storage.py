"""Where the bytes of an image are: QEMU's protocol nodes, for disks and for SCSI devices that are passed through."""

from __future__ import annotations

from urllib.parse import quote

from corral.errors import ConfigUnsupported
from corral.model.devices.disk import DiskSource
from corral.model.devices.remote import Auth, Encryption, Initiator, Reservations, SourceHost
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, given
from corral.qemu.runtime import Part

HELPER_SOCKET = "pr-helper.sock"
"""Where the helper for persistent reservations that we run listens, in the machine's own directory."""


def storage(
    source: DiskSource, context: Context, *, number: int, writable: bool, direct: bool = False, owner: str = ""
) -> tuple[list[Part], Properties]:
    """The parts ahead of the node (the file, a helper) and the node's own properties.

    `direct` when QEMU reads past the host's cache; `owner` the alias of the device that uses it.
    """
    if source.protocol is not None:
        parts, more = password(source.auth, owner)
        return parts, _remote(source, context) | more
    if source.address is not None:
        return [], _drive(source, context)
    file = descriptors.image(number, source.path or "", writable=writable, direct=direct)
    node: Properties = {"driver": "host_device" if source.dev is not None else "file"}
    node["filename"] = descriptors.reference(file)
    if source.reservations is None:
        return [file], node
    helper = Part("object", f"pr-helper-{owner}", _helper(source.reservations))
    return [file, helper], node | {"pr-manager": helper.id}


def _helper(reservations: Reservations) -> Properties:
    if reservations.managed == "yes" or reservations.source is None:
        return {"qom-type": "pr-manager-helper", "path": HELPER_SOCKET}
    return {"qom-type": "pr-manager-helper", "path": reservations.source.path}


def _drive(source: DiskSource, context: Context) -> Properties:
    """A namespace of an NVMe drive of the host's, which QEMU drives by VFIO."""
    if not context.binary.has_argument("blockdev-add", "driver=nvme"):
        raise ConfigUnsupported(f"NVMe disks are not supported with QEMU binary '{context.binary.path}'")
    return {"driver": "nvme", "device": str(source.address), "namespace": source.namespace}


def _remote(source: DiskSource, context: Context) -> Properties:
    """The node of an image on another machine."""
    driver = str(source.protocol)
    if not context.binary.has_argument("blockdev-add", f"driver={driver}"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' cannot read images over '{driver}'")
    match driver:
        case "iscsi":
            return iscsi(source.hosts, source.name or "", source.initiator)
        case "nbd":
            node: Properties = {"driver": "nbd", "server": _server(source.hosts[0])} | given(export=source.name)
            return node | given({"reconnect-delay": source.reconnect.delay if source.reconnect is not None else None})
    return _url(source, driver)


def iscsi(hosts: list[SourceHost], name: str, initiator: Initiator | None) -> Properties:
    """A LUN of an iSCSI target by QEMU's own initiator; `name` is the target's, a slash and the LUN's number."""
    target, _, lun = name.partition("/")
    node: Properties = {"driver": "iscsi", "portal": hosts[0].place, "target": target, "lun": int(lun or 0)}
    node["transport"] = "tcp"
    return node | given({"initiator-name": initiator.iqn.name if initiator is not None else None})


def password(auth: Auth | None, owner: str) -> tuple[list[Part], Properties]:
    """The object that holds a target's password, and what the node says of it; `owner`: the device's alias."""
    if auth is None:
        return [], {}
    secret = Part("object", f"{owner}-secret", {"qom-type": "secret", "format": "raw", "file": secret_file(owner)})
    return [secret], {"user": auth.username, "password-secret": secret.id}


def passphrase(encryption: Encryption | None, owner: str) -> tuple[list[Part], str | None]:
    """The object that holds the passphrase of an encrypted image, and its name."""
    if encryption is None:
        return [], None
    name = f"{owner}-encryption-secret"
    return [Part("object", name, {"qom-type": "secret", "format": "raw", "file": passphrase_file(owner)})], name


def passphrase_file(owner: str) -> str:
    """Where QEMU reads the passphrase of a device's image."""
    return f"{owner}.passphrase"


def secret_file(owner: str) -> str:
    """Where QEMU, in its own directory, reads a device's password as it makes the object."""
    return f"{owner}.secret"


def _server(host: SourceHost) -> Properties:
    if host.socket is not None:
        return {"type": "unix", "path": host.socket}
    return {"type": "inet", "host": host.name, "port": str(host.port)}


def _url(source: DiskSource, driver: str) -> Properties:
    """curl's protocols: read only, as QEMU has them."""
    url = f"{driver}://{source.hosts[0].place}/{quote((source.name or '').lstrip('/'))}"
    url += f"?{source.query}" if source.query is not None else ""
    return {"driver": driver, "url": url} | given(
        sslverify=None if source.ssl is None else source.ssl.verify == "yes",
        timeout=source.timeout.seconds if source.timeout is not None else None,
        readahead=source.readahead.size if source.readahead is not None else None,
    )
