"""Validation against the schemas that libvirt publishes, where they are installed."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from corral.errors import CorralError, XMLSchemaInvalid
from corral.model import reader

SCHEMAS = Path("/usr/share/libvirt/schemas")


def unusable(schema: str = "domain") -> str | None:
    """Why `schema` judges nothing here, or None. A document that Corral itself wrote must not be refused.

    Before 9.1 libvirt did not know the iTCO watchdog, which every q35 machine's document has.
    """
    path = SCHEMAS / f"{schema}.rng"
    if not path.exists():
        return "libvirt's schemas are not installed (apt-get install libvirt-common, or libvirt0 before Debian 13)"
    if schema == "domain" and b"<value>itco</value>" not in (SCHEMAS / "domaincommon.rng").read_bytes():
        return "libvirt's schemas are older than what Corral writes: they are from before libvirt 9.1"
    return None


def validate_schema(xml: str | bytes, schema: str = "domain") -> bool:
    """Whether `schema` is there to check with (`unusable`); XMLSchemaInvalid names what it refuses and where.

    Loading a schema takes some ten milliseconds: call this from a thread. It is not kept, because it takes 5 MiB.
    """
    path = SCHEMAS / f"{schema}.rng"
    if unusable(schema):
        return False
    root = reader.parse(xml)
    validator = etree.RelaxNG(etree.parse(str(path)))
    if validator.validate(root) or (schema == "domain" and _drop_newer(root) and validator.validate(root)):
        return True
    raise XMLSchemaInvalid(f"Unable to validate doc against {path}: {_reason(xml, schema, validator)}")


def _drop_newer(root: etree._Element) -> bool:
    """Take out what older schemas do not know and our own reader does: NVMe, which libvirt has since 11.5.

    Whether there was any.
    """
    devices = root.find("devices")
    if devices is None:
        return False
    newer = devices.findall("controller[@type='nvme']")
    newer += [disk for disk in devices.iterfind("disk") if any(_on_nvme(target) for target in disk.iterfind("target"))]
    for element in newer:
        devices.remove(element)
    return bool(newer)


def _on_nvme(target: etree._Element) -> bool:
    """Whether a disk's target says NVMe, or only its name does, to which the reader gives that bus."""
    return target.get("bus", "nvme" if target.get("dev", "").startswith("nvme") else None) == "nvme"


def _reason(xml: str | bytes, schema: str, validator: etree.RelaxNG) -> str:
    """What is wrong and where: in our reader's words, which name the element, or else in the schema's."""
    if schema == "domain":
        from corral.model.domain import Domain

        try:
            Domain.from_xml(xml)
        except CorralError as refused:
            return refused.detail
    found = [error for error in validator.error_log if error.line]
    if not found:
        return "unknown reason"
    # The first is about the innermost element, the last about the one around them all.
    error = found[0]
    where = f" ({error.path}, line {error.line})" if error.path else f" (line {error.line})"
    return f"{error.message.strip()}{where}"
