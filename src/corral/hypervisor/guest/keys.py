"""Key codes in the sets that clients use, as the numbers that QEMU takes (libvirt's qnum set).

A qnum is the AT keyboard's set 1 scan code, with bit 7 set where the keyboard sends the prefix 0xE0. Linux's codes up
to 88 were made from the same scan codes. Sources: Linux input-event-codes.h, USB HID Usage Tables (page 7).
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.constants import ErrorDomain, KeycodeSet, name_of
from corral.errors import InternalError, InvalidArgument

#: Linux codes above the part that equals set 1.
_LINUX_ABOVE = {
    85: 0x76,  # Zenkaku/Hankaku
    86: 0x56,  # the key left of Z on European keyboards
    87: 0x57,  # F11
    88: 0x58,  # F12
    89: 0x73,
    90: 0x78,
    91: 0x77,
    92: 0x79,
    93: 0x70,
    94: 0x7B,
    95: 0x5C,
    96: 0x9C,  # keypad Enter
    97: 0x9D,  # right Ctrl
    98: 0xB5,  # keypad /
    99: 0x54,  # SysRq
    100: 0xB8,  # right Alt
    101: 0x5B,
    102: 0xC7,  # Home
    103: 0xC8,  # Up
    104: 0xC9,  # Page Up
    105: 0xCB,  # Left
    106: 0xCD,  # Right
    107: 0xCF,  # End
    108: 0xD0,  # Down
    109: 0xD1,  # Page Down
    110: 0xD2,  # Insert
    111: 0xD3,  # Delete
    113: 0xA0,  # mute
    114: 0xAE,  # volume down
    115: 0xB0,  # volume up
    116: 0xDE,  # power
    117: 0x59,  # keypad =
    119: 0xC6,  # Pause
    121: 0x7E,
    122: 0x72,
    123: 0x71,
    124: 0x7D,
    125: 0xDB,  # left Meta
    126: 0xDC,  # right Meta
    127: 0xDD,  # menu
    142: 0xDF,  # sleep
    143: 0xE3,  # wake up
}
_LINUX = {code: code for code in range(1, 84)} | _LINUX_ABOVE

#: Linux codes of the USB usages 4 to 101, in order: letters, digits, controls, punctuation, F keys, navigation, keypad.
_USB_FROM_4 = (
    *(30, 48, 46, 32, 18, 33, 34, 35, 23, 36, 37, 38, 50, 49, 24, 25, 16, 19, 31, 20, 22, 47, 17, 45, 21, 44),
    *(2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    *(28, 1, 14, 15, 57, 12, 13, 26, 27, 43, 43, 39, 40, 41, 51, 52, 53, 58),
    *(59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 87, 88),
    *(99, 70, 119, 110, 102, 104, 111, 107, 109, 106, 105, 108, 103),
    *(69, 98, 55, 74, 78, 96, 79, 80, 81, 75, 76, 77, 71, 72, 73, 82, 83, 86, 127),
)
_USB_MODIFIERS = (29, 42, 56, 125, 97, 54, 100, 126)
_USB = {4 + offset: _LINUX[code] for offset, code in enumerate(_USB_FROM_4)} | {
    224 + offset: _LINUX[code] for offset, code in enumerate(_USB_MODIFIERS)
}

_SET_1 = {number: number for number in range(1, 0x80)} | {0xE000 | low: 0x80 | low for low in range(1, 0x80)}

_TABLES: dict[int, dict[int, int]] = {
    KeycodeSet.LINUX: _LINUX,
    KeycodeSet.XT: _SET_1,
    KeycodeSet.ATSET1: _SET_1,
    KeycodeSet.XT_KBD: _LINUX,
    KeycodeSet.USB: _USB,
    KeycodeSet.QNUM: {number: number for number in range(1, 0x100)},
}


def translate(codeset: int, keycodes: Sequence[int]) -> list[int]:
    """The codes of virKeycodeSet `codeset` as qnums; InvalidArgument or InternalError names what is unknown."""
    table = _TABLES.get(codeset)
    if table is None:
        raise InvalidArgument(f"Unsupported codeset '{codeset}'", domain=ErrorDomain.DOMAIN)
    for code in keycodes:
        if code not in table:
            name = name_of(KeycodeSet, codeset)
            raise InternalError(f"cannot translate keycode {code} of {name} codeset to qnum keycode")
    return [table[code] for code in keycodes]
