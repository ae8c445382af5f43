"""Filter rules: the text form, the order of checks, and the same verdicts as Debian's libusbredirparser."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import InvalidArgument
from corral.usb.filter import ANY, Filter, Rule

words = st.one_of(st.just(ANY), st.integers(0, 0xFFFF))
rules = st.builds(Rule, st.one_of(st.just(ANY), st.integers(0, 0xFF)), words, words, words, st.booleans())
filters = st.builds(lambda each: Filter(tuple(each)), st.lists(rules, max_size=6))


@given(filters)
def test_text_and_back(filter: Filter) -> None:
    assert Filter.parse(str(filter)) == filter


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0x08,-1,-1,-1,1", Rule(8, allow=True)),
        ("-1,0x1d6b,260,-1,0", Rule(vendor=0x1D6B, product=260)),
        ("3,-1,-1,0x0100,5", Rule(3, version=0x100, allow=True)),
    ],
)
def test_reads(text: str, rule: Rule) -> None:
    assert Filter.parse(text) == Filter((rule,))


@pytest.mark.parametrize(
    "text",
    ["1", "0x08,-1,-1,-1", "0x08,-1,-1,-1,1,1", "-2,-1,-1,-1,1", "256,-1,-1,-1,1", "a,b,c,d,e", "0x08,0x10000,-1,-1,1"],
)
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="USB filter"):
        Filter.parse(text)


def test_first_rule_that_fits_decides_and_none_keeps_out() -> None:
    filter = Filter.parse("0x08,0x1234,-1,-1,0|0x08,-1,-1,-1,1")
    assert filter.allows(8, 1, 1, 1)
    assert not filter.allows(8, 0x1234, 1, 1)
    assert not filter.allows(3, 1, 1, 1)


def test_interfaces_are_checked_when_the_device_says_so() -> None:
    filter = Filter.parse("0x03,-1,-1,-1,0|-1,-1,-1,-1,1")
    assert not filter.allows(0, 1, 1, 1, [(8, 6, 80), (3, 1, 1)])
    # The volume keys of a headset are let in, a lone HID device is not.
    assert filter.allows(0, 1, 1, 1, [(1, 1, 0), (3, 0, 0)])
    assert not filter.allows(0, 1, 1, 1, [(3, 0, 0)])


class _Rule(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("device_class", "vendor", "product", "version", "allow")]


@cache
def library() -> ctypes.CDLL:
    name = ctypes.util.find_library("usbredirparser")
    if name is None:
        pytest.skip("libusbredirparser is not installed (apt-get install libusbredirparser1)")
    return ctypes.CDLL(name)


devices = st.tuples(st.integers(0, 255), *[st.integers(0, 0xFFFF)] * 3)
interfaces = st.lists(st.tuples(st.sampled_from((0, 1, 3, 8, 255)), st.integers(0, 1), st.integers(0, 1)), max_size=4)


@given(filters, devices, interfaces, st.data())
def test_same_verdict_as_the_library(
    filter: Filter, device: tuple[int, int, int, int], found: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    # Rules that have a chance to fit.
    if filter.rules and data.draw(st.booleans()):
        known = filter.rules[0]
        values = (known.device_class, known.vendor, known.product, known.version)
        device = tuple(d if v == ANY else v for v, d in zip(values, device, strict=True))  # type: ignore[assignment]
    theirs = (_Rule * max(len(filter.rules), 1))(
        *[_Rule(r.device_class, r.vendor, r.product, r.version, r.allow) for r in filter.rules]
    )
    columns = [bytes(column) for column in zip(*found, strict=True)] or [b""] * 3
    klass, vendor, product, version = device
    verdict = library().usbredirfilter_check(
        theirs, len(filter.rules), klass, 0, 0, *columns, len(found), vendor, product, version, 0
    )
    assert verdict in (0, -1, -2)  # allowed, EPERM, ENOENT
    assert filter.allows(klass, vendor, product, version, found) == (verdict == 0)


@given(filters)
def test_same_text_as_the_library(filter: Filter) -> None:
    print_rules = library().usbredirfilter_rules_to_string
    print_rules.restype = ctypes.c_char_p
    theirs = (_Rule * max(len(filter.rules), 1))(
        *[_Rule(r.device_class, r.vendor, r.product, r.version, r.allow) for r in filter.rules]
    )
    text = print_rules(theirs, len(filter.rules), b",", b"|")
    assert Filter.parse((text or b"").decode()) == filter
