"""A firmware of 64 KiB that keeps its vCPU busy, and tells what the guest itself counts as stolen time.

It asks for the count as a guest does (CPUID 0x4000_0001, bit 5; MSR 0x4b56_4d03 with the address of 64 bytes, of which
the first eight are nanoseconds: Documentation/virt/kvm/x86/msr.rst of the kernel), and writes it again and again to the
debug port 0x402, in hexadecimal, a line each. Where nobody tells it of stolen time it writes `-` and only spins.
It needs no devices and is there at once, also where KVM itself is emulated and a kernel would take minutes.
"""

from __future__ import annotations

from pathlib import Path

_SIZE = 0x10000
_RESET = 0xFFF0
_TURNS = 20_000
"""Of an empty loop between two lines."""

_ASK = bytes.fromhex(
    "fa 31c0 8ed8 8ed0 bc0070"  # cli; ds = ss = 0; sp = 0x7000
    "66b801000040 0fa2 66a920000000 7457"  # cpuid 0x40000001; test eax, 1 << 5; jz none
    "66b9034d564b 66b801900000 6631d2 0f30"  # wrmsr 0x4b564d03, 0x9000 | enabled
)
_TELL = bytes.fromhex(
    "66a10090 66a30080 66a10490 66a30480"  # copy what stands at 0x9000 to 0x8000
    "ba0204 be0780 b90800"  # dx = 0x402; si = 0x8007; cx = 8
    "8a04 88c4 c0e804 e81900 88e0 240f e81200 4e e2ec"  # each byte: digit(al >> 4); digit(al & 15)
    "b00a ee"  # the line's end
)
_SPIN = b"\x66\xb9" + _TURNS.to_bytes(4, "little") + bytes.fromhex("6649 75fc")  # ecx = turns; dec ecx; jnz
_AGAIN = bytes.fromhex("ebc4")
_DIGIT = bytes.fromhex("3c0a 7202 0427 0430 ee c3")  # al below 16 as a letter to the port
_NONE = bytes.fromhex("ba0204 b02d ee b00a ee ebfe")  # `-`, and no more


def image() -> bytes:
    """The firmware; the reset vector jumps to its beginning."""
    code = _ASK + _TELL + _SPIN + _AGAIN + _DIGIT + _NONE
    return code.ljust(_RESET, b"\xf4") + bytes.fromhex("ea000000f0").ljust(_SIZE - _RESET, b"\0")


def document(name: str, kind: str, firmware: Path, told: Path, *, cpu: int, processor: str = "") -> str:
    """A machine of type `kind` with this firmware, whose vCPU may use the host's CPU `cpu` only; `told` is its port."""
    return f"""<domain type='{kind}'><name>{name}</name><memory unit='MiB'>16</memory>
      <cputune><vcpupin vcpu='0' cpuset='{cpu}'/></cputune>
      <os><type arch='x86_64' machine='q35'>hvm</type><loader type='rom'>{firmware}</loader></os>
      <features><acpi/></features>{processor}
      <devices><controller type='usb' model='none'/>
      <serial type='file'><source path='{told}'/><target type='isa-debug' port='0'><model name='isa-debugcon'/></target>
      <address type='isa' iobase='0x402'/></serial></devices></domain>"""


def stolen(told: Path) -> int | None:
    """Nanoseconds by the last whole line, or None when the guest was told of none."""
    lines = told.read_text().split("\n")[:-1]
    return None if lines[-1] == "-" else int(lines[-1], 16)
