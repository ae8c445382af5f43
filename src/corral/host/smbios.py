"""What the host's firmware says of itself and the hardware, as libvirt's sysinfo document; the kernel has read it."""

from __future__ import annotations

from pathlib import Path

from corral.host.sysfs import text

#: Section → entry of libvirt's → file of /sys/class/dmi/id.
SECTIONS = {
    "bios": {"vendor": "bios_vendor", "version": "bios_version", "date": "bios_date", "release": "bios_release"},
    "system": {
        "manufacturer": "sys_vendor",
        "product": "product_name",
        "version": "product_version",
        "serial": "product_serial",
        "uuid": "product_uuid",
        "sku": "product_sku",
        "family": "product_family",
    },
    "baseBoard": {
        "manufacturer": "board_vendor",
        "product": "board_name",
        "version": "board_version",
        "serial": "board_serial",
        "asset": "board_asset_tag",
    },
    "chassis": {
        "manufacturer": "chassis_vendor",
        "version": "chassis_version",
        "serial": "chassis_serial",
        "asset": "chassis_asset_tag",
    },
}


def sysinfo_xml(root: Path = Path("/")) -> str | None:
    """The document, or None where the firmware has no SMBIOS tables."""
    directory = root / "sys/class/dmi/id"
    lines = []
    for section, entries in SECTIONS.items():
        values = [(entry, text(directory / file)) for entry, file in entries.items()]
        found = [f"    <entry name='{entry}'>{escape(value)}</entry>" for entry, value in values if value]
        if found:
            lines += [f"  <{section}>", *found, f"  </{section}>"]
    return "\n".join(["<sysinfo type='smbios'>", *lines, "</sysinfo>", ""]) if lines else None


def escape(text: str) -> str:
    """Text in XML. The library's own function brings an HTTP client along, three mebibytes of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
