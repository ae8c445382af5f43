"""Key codes: the same key in every set is the same number."""

from __future__ import annotations

import pytest

from corral.constants import KeycodeSet
from corral.errors import InternalError, InvalidArgument
from corral.hypervisor.guest.keys import translate

# Linux, USB, XT (set 1), QNUM of the same keys.
KEYS = {
    "A": (30, 4, 0x1E, 0x1E),
    "Z": (44, 29, 0x2C, 0x2C),
    "0": (11, 39, 0x0B, 0x0B),
    "Enter": (28, 40, 0x1C, 0x1C),
    "F12": (88, 69, 0x58, 0x58),
    "Delete": (111, 76, 0xE053, 0xD3),
    "Up": (103, 82, 0xE048, 0xC8),
    "left Ctrl": (29, 224, 0x1D, 0x1D),
    "right Alt": (100, 230, 0xE038, 0xB8),
    "keypad 5": (76, 93, 0x4C, 0x4C),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_set_names_the_same_key(key: str) -> None:
    linux, usb, xt, qnum = KEYS[key]
    for codeset, code in (
        (KeycodeSet.LINUX, linux),
        (KeycodeSet.USB, usb),
        (KeycodeSet.XT, xt),
        (KeycodeSet.QNUM, qnum),
    ):
        assert translate(codeset, [code]) == [qnum]


def test_an_unknown_key_or_set_is_named() -> None:
    with pytest.raises(InternalError, match="cannot translate keycode 99999 of linux codeset to qnum keycode"):
        translate(KeycodeSet.LINUX, [30, 99999])
    with pytest.raises(InvalidArgument, match="Unsupported codeset '77'"):
        translate(77, [30])
