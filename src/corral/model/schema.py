"""Validation against the schemas that libvirt publishes, where they are installed."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from corral.errors import XMLSchemaInvalid
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
    error = validator.error_log.last_error
    where = f" (line {error.line})" if error is not None and error.line else ""
    message = error.message.strip() if error is not None else "unknown reason"
    raise XMLSchemaInvalid(f"Unable to validate doc against {path}: {message}{where}")
