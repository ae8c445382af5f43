"""Validation against the schemas that libvirt publishes, where they are installed."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from corral.errors import CorralError, XMLSchemaInvalid
from corral.model import reader

SCHEMAS = Path("/usr/share/libvirt/schemas")


def validate_schema(xml: str | bytes, schema: str = "domain") -> bool:
    """Whether `schema` is installed to check with; XMLSchemaInvalid names what it refuses and where.

    Loading a schema takes some ten milliseconds: call this from a thread. It is not kept, because it takes 5 MiB.
    """
    path = SCHEMAS / f"{schema}.rng"
    if not path.exists():
        return False
    root = reader.parse(xml)
    validator = etree.RelaxNG(etree.parse(str(path)))
    if validator.validate(root):
        return True
    raise XMLSchemaInvalid(f"Unable to validate doc against {path}: {_reason(xml, schema, validator)}")


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
