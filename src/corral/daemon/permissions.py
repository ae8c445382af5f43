"""What a read-only connection may call: decided by a table, the access rights that each procedure declares.

A procedure's rights are `object:permission`, optionally followed by `:FLAG` (needed only when the call carries the
flag) or `::argument:VALUE` (needed only when the argument has the value). A read-only connection has the permissions
to look and to list, and no other. Where libvirt's own API is stricter than the declared rights, STRICTER says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corral.constants import (
    DomainInterfaceAddressesSource,
    DomainSnapshotXMLFlags,
    DomainVcpuFlags,
    DomainXMLFlags,
)
from corral.errors import OperationDenied
from corral.protocol.procedures import Procedure

#: Permissions, of any object, that looking needs.
LOOKING = frozenset({"none", "getattr", "read"})

#: Procedures whose declared rights say "read" though they change something.
STRICTER = frozenset({"domain_set_scheduler_parameters"})

#: Values of the names that conditional rights mention, as far as a read-only connection can meet them.
CONDITIONS = {
    "VIR_DOMAIN_XML_SECURE": DomainXMLFlags.SECURE,
    "VIR_DOMAIN_XML_MIGRATABLE": DomainXMLFlags.MIGRATABLE,
    "VIR_DOMAIN_VCPU_GUEST": DomainVcpuFlags.GUEST,
    "VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT": DomainInterfaceAddressesSource.AGENT,
    "VIR_DOMAIN_SNAPSHOT_XML_SECURE": DomainSnapshotXMLFlags.SECURE,
    "VIR_DOMAIN_SAVE_IMAGE_XML_SECURE": 1,
    "VIR_DOMAIN_CHECKPOINT_XML_SECURE": 1,
}

#: Words of a procedure's name that the API's function spells in its own way.
SPELLING = {
    "xml": "XML",
    "id": "ID",
    "uuid": "UUID",
    "uri": "URI",
    "nmi": "NMI",
    "cpu": "CPU",
    "pm": "PM",
    "os": "OS",
    "fd": "FD",
    "fsfreeze": "FSFreeze",
    "fsthaw": "FSThaw",
    "fstrim": "FSTrim",
    "fsinfo": "FSInfo",
    "iothread": "IOThread",
    "nwfilter": "NWFilter",
    "nwfilters": "NWFilters",
    "dhcp": "DHCP",
    "sev": "SEV",
    "ssh": "SSH",
    "scsi": "SCSI",
    "wwn": "WWN",
    "cpus": "CPUs",
    "mac": "MAC",
}

Check = Callable[[Any], None]


def api_name(procedure: str) -> str:
    """The API function behind a procedure's name: `domain_get_xml_desc` is virDomainGetXMLDesc."""
    words = procedure.split(".")
    name = "".join(SPELLING.get(word, word.capitalize()) for word in words[-1].split("_"))
    if words[0] == "qemu":
        for stem in ("Domain", "Connect"):
            if name.startswith(stem):
                infix = "Qemu" if stem == "Domain" else "DomainQemu"
                return f"vir{stem}{infix}{name.removeprefix(stem).removeprefix('Domain')}"
    return f"vir{name}"


def _grants(permission: str) -> bool:
    return permission in LOOKING or permission.startswith("search_")


def changes(procedure: Procedure) -> bool:
    """Whether every call of the procedure is beyond a read-only connection."""
    if procedure.name in STRICTER:
        return True
    unconditional = (right.split(":") for right in procedure.acl if right.count(":") <= 1)
    return not all(_grants(right[-1]) for right in unconditional)


def denied(procedure: Procedure) -> OperationDenied:
    """The error for a read-only connection that calls what changes something."""
    return OperationDenied(f"read only access prevents {api_name(procedure.name)}")


def readonly_check(procedure: Procedure) -> Check | None:
    """A function that refuses the arguments which a read-only connection may not pass, or None when all may."""
    if changes(procedure):

        def refuse(args: Any) -> None:
            raise denied(procedure)

        return refuse
    conditions = []
    for right in procedure.acl:
        if right.count(":") <= 1 or _grants(right.split(":")[1]):
            continue
        words = right.split(":")  # object:permission:FLAG, or object:permission::argument:VALUE
        conditions.append(
            ("flags", CONDITIONS[words[2]], False) if words[2] else (words[3], CONDITIONS[words[4]], True)
        )
    if not conditions:
        return None

    def check(args: Any) -> None:
        for argument, value, exactly in conditions:
            given = getattr(args, argument)
            if given == value if exactly else given & value:
                what = "this source" if exactly else "secure flag"
                raise OperationDenied(f"{api_name(procedure.name)} with {what}")

    return check
