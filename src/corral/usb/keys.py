"""What to press on a US keyboard for a character: HID usages (HID Usage Tables 1.12, section 10) and shift."""

from __future__ import annotations

from typing import Final

from corral.errors import InvalidArgument

SHIFT: Final = 0x02
"""The left shift key in the modifier byte of a report (HID 1.11, 8.3)."""

NUM_LOCK: Final = 0x53
"""Its lamp is the first bit of the lamps that a guest sends (HID Usage Tables 1.12, section 11)."""

_PLAIN = "abcdefghijklmnopqrstuvwxyz1234567890\n\x1b\b\t -=[]\\"
_SHIFTED = "ABCDEFGHIJKLMNOPQRSTUVWXYZ!@#$%^&*()\0\0\0\0\0_+{}|"
_MORE_PLAIN = ";'`,./"
_MORE_SHIFTED = ':"~<>?'

_FIRST, _MORE = 0x04, 0x33

_USAGES: dict[str, tuple[int, int]] = {
    **{character: (0, _FIRST + at) for at, character in enumerate(_PLAIN)},
    **{character: (SHIFT, _FIRST + at) for at, character in enumerate(_SHIFTED) if character != "\0"},
    **{character: (0, _MORE + at) for at, character in enumerate(_MORE_PLAIN)},
    **{character: (SHIFT, _MORE + at) for at, character in enumerate(_MORE_SHIFTED)},
}


def strokes(text: str) -> list[tuple[int, int]]:
    """Modifier and usage for each character. InvalidArgument names one that the keyboard does not have."""
    for character in text:
        if character not in _USAGES:
            raise InvalidArgument(f"a US keyboard has no key for {character!r}")
    return [_USAGES[character] for character in text]
