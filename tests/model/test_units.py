"""Sizes of memory in libvirt's units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import XMLError
from corral.model.domain import Domain
from corral.model.units import Memory, parse_size

DOCUMENT = "<domain type='qemu'><name>a</name><memory{unit}>{number}</memory><os><type>hvm</type></os></domain>"


def kib(number: str, unit: str | None = None) -> int:
    text = DOCUMENT.format(number=number, unit=f" unit='{unit}'" if unit is not None else "")
    memory = Domain.from_xml(text).memory
    assert memory is not None
    return memory.kib


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        ("1024", None, 1024),
        (" 1024\n", None, 1024),
        ("1", "bytes", 1),
        ("1025", "b", 2),
        ("1", "KB", 1),
        ("512", "k", 512),
        ("512", "KiB", 512),
        ("1", "MB", 977),
        ("1", "M", 1024),
        ("1", "MiB", 1024),
        ("1", "mib", 1024),
        ("2", "G", 2 * 1024**2),
        ("1", "GB", 976563),
        ("1", "TiB", 1024**3),
        ("1", "PiB", 1024**4),
        ("15", "EiB", 15 * 1024**5),
    ],
)
def test_every_unit(number: str, unit: str | None, expected: int) -> None:
    assert kib(number, unit) == expected


@pytest.mark.parametrize(("number", "unit"), [("-1", "KiB"), ("16", "EiB"), ("1.5", "GiB"), ("0x10", "KiB")])
def test_bad_sizes(number: str, unit: str) -> None:
    with pytest.raises(XMLError, match=r"/domain/memory, line 1"):
        kib(number, unit)


@given(st.integers(0, 2**54 - 1))
def test_what_is_written_is_what_is_read(size: int) -> None:
    document = Domain.from_xml(DOCUMENT.format(number=size, unit=""))
    assert f"<memory unit='KiB'>{size}</memory>" in document.to_xml()
    assert Domain.from_xml(document.to_xml()) == document


def test_a_person_writes_sizes_too() -> None:
    assert Memory.of("512M").mib == 512
    assert Memory.of("2 GiB").bytes == 2 * 1024**3
    assert Memory.of("100").kib == 100
    assert parse_size("1k") == 1024
    for bad in ("", "M", "-1M", "1..2G", "5 furlongs"):
        with pytest.raises(XMLError):
            Memory.of(bad)
