"""Which devices may be redirected: usbredir's filter rules.

"usb_redir_filter_filter" of the usbredir protocol document gives the text form, usbredirfilter.h the order of checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from corral.errors import InvalidArgument

ANY: Final = -1
_MAX_RULES = 4096
_NUMBER = re.compile(r"^(-1|0[xX][0-9a-fA-F]{1,8}|[0-9]{1,8})$")
_LIMITS = {"device class": 0xFF, "vendor": 0xFFFF, "product": 0xFFFF, "version": 0xFFFF}
_PER_INTERFACE = (0x00, 0xEF)
"""Device classes that say: see the interfaces (USB 2.0, 9.6.1, and the interface association class)."""
_HID = 0x03


@dataclass(frozen=True, slots=True)
class Rule:
    """Let devices in, or keep them out, by class, vendor, product and version (BCD); ANY (-1) fits every device."""

    device_class: int = ANY
    vendor: int = ANY
    product: int = ANY
    version: int = ANY
    allow: bool = False

    def __post_init__(self) -> None:
        values = (self.device_class, self.vendor, self.product, self.version)
        for value, (name, most) in zip(values, _LIMITS.items(), strict=True):
            if not ANY <= value <= most:
                raise InvalidArgument(f"USB filter: {name} {value} is not from -1 to {most:#x}")

    def __str__(self) -> str:
        words = [_text(self.device_class, 2), *(_text(v, 4) for v in (self.vendor, self.product, self.version))]
        return ",".join([*words, "1" if self.allow else "0"])

    def fits(self, device_class: int, vendor: int, product: int, version: int) -> bool:
        """Whether the rule speaks of such a device."""
        return (
            self.device_class in (ANY, device_class)
            and self.vendor in (ANY, vendor)
            and self.product in (ANY, product)
            and self.version in (ANY, version)
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """Rules in order, the first that fits decides; a device that fits none stays out."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Rules from `class,vendor,product,version,allow|…`, numbers in decimal or 0x….

        Raises InvalidArgument naming the rule that cannot be read.
        """
        words = [word for word in text.split("|") if word]
        if len(words) > _MAX_RULES:
            raise InvalidArgument(f"USB filter: {len(words)} rules, at most {_MAX_RULES} allowed")
        return cls(tuple(_rule(word) for word in words))

    def __str__(self) -> str:
        return "|".join(map(str, self.rules))

    def allows(
        self,
        device_class: int,
        vendor: int,
        product: int,
        version: int,
        interfaces: Iterable[tuple[int, int, int]] = (),
    ) -> bool:
        """Whether a device may be redirected; `interfaces` are class, subclass and protocol of each.

        The device's own class is checked, unless it says "see the interfaces", then each interface's class. On a device
        with several interfaces a HID interface without a boot protocol (volume keys of a headset) is not checked,
        unless it has no others.
        """
        found = list(interfaces)
        checked = [interface for interface in found if tuple(interface) != (_HID, 0, 0)] or found
        classes = [] if device_class in _PER_INTERFACE else [device_class]
        classes += [interface[0] for interface in checked]
        return all(self._verdict(each, vendor, product, version) for each in classes)

    def _verdict(self, device_class: int, vendor: int, product: int, version: int) -> bool:
        return next((rule.allow for rule in self.rules if rule.fits(device_class, vendor, product, version)), False)


def _rule(text: str) -> Rule:
    words = [word for word in text.split(",") if word]
    if len(words) != 5 or not all(_NUMBER.match(word) for word in words):
        raise InvalidArgument(f"USB filter: {text[:60]!r} is not class,vendor,product,version,allow in numbers")
    numbers = [int(word, 16) if word[:2].lower() == "0x" else int(word) for word in words]
    device_class, vendor, product, version, allow = numbers
    return Rule(device_class, vendor, product, version, allow != 0)


def _text(value: int, digits: int) -> str:
    return "-1" if value == ANY else f"0x{value:0{digits}x}"
