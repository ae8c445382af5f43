"""The program that counts in a 64-bit virtual CPU and prints how long it took; `kvm.py` runs it by path.

It is alone in its file and imports only the standard library, so that `python -I -S kvm_loop.py DEVICE TURNS` starts
fast and can be killed at any time. Prints one JSON object: `error` (why it could not run, else null), `seconds`
(the best of a few runs), and what the kernel says of itself. Numbers: linux/kvm.h; documentation: the kernel's
virt/kvm/api.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import signal
import struct
import sys
import time

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_CPUID2 = 0x4008AE90
KVM_GET_TSC_KHZ = 0xAEA3

CAP_TSC_CONTROL = 60
CAP_GET_TSC_KHZ = 61
CAP_MAX_VCPUS = 66
CAP_X2APIC_API = 129
CAP_PMU_CAPABILITY = 212
EXIT_NAMES = {0: "unknown", 2: "I/O", 5: "halt", 6: "MMIO", 8: "shutdown", 9: "failed entry", 17: "internal error"}
EXIT_HLT = 5

MEMORY = 0x10000
UNUSED_ADDRESS = 0x7FFBD000
PML4, PDPT, PD, CODE = 0x1000, 0x2000, 0x3000, 0x4000
RUNS = 4
LIFETIME = 30
ENOUGH_SECONDS = 0.25
"""A run that took this long is slow beyond doubt: no more runs."""

LOOP = bytes.fromhex(
    "48ffc3"  # inc rbx    (with its REX prefix only a 64-bit CPU counts here)
    "ffc9"  #   dec ecx
    "75f9"  #   jnz back to inc
    "f4"  #     hlt
)


def _segment(selector: int, kind: int, *, code: bool) -> bytes:
    """struct kvm_segment: a flat one at privilege level 0; `code` makes it a 64-bit code segment."""
    present, level, default, system, long, granularity = 1, 0, int(not code), 1, int(code), 1
    fields = (kind, present, level, default, system, long, granularity, 0, 0, 0)
    return struct.pack("<QIH10B", 0, 0xFFFFFFFF, selector, *fields)


def _long_mode(sregs: bytearray) -> bytearray:
    """Turn the reset state (struct kvm_sregs) into 64-bit mode with the page tables of `_tables`."""
    sregs[0:24] = _segment(0x08, 11, code=True)
    for index in range(1, 6):  # ds es fs gs ss
        sregs[24 * index : 24 * (index + 1)] = _segment(0x10, 3, code=False)
    control = 8 * 24 + 2 * 16
    cr0, cr2, cr3, cr4, cr8, efer, apic = struct.unpack_from("<7Q", sregs, control)
    cr0 = 0x80050033  # PG AM WP NE ET MP PE
    cr3, cr4, efer = PML4, cr4 | 0x20, efer | 0x500  # PAE; LMA LME
    struct.pack_into("<7Q", sregs, control, cr0, cr2, cr3, cr4, cr8, efer, apic)
    return sregs


def _load(memory: mmap.mmap, turns: int) -> None:
    """Page tables that map the first two megabytes one to one, and the loop."""
    struct.pack_into("<Q", memory, PML4, PDPT | 3)
    struct.pack_into("<Q", memory, PDPT, PD | 3)
    struct.pack_into("<Q", memory, PD, 0x83)
    code = b"\xb9" + struct.pack("<I", turns) + LOOP  # mov ecx, turns
    memory[CODE : CODE + len(code)] = code


def _run(vcpu: int, state: mmap.mmap, memory: mmap.mmap, turns: int) -> float:
    """Count `turns` once; seconds. Raises OSError with a sentence when the CPU did something else."""
    _load(memory, turns)
    registers = bytearray(144)  # struct kvm_regs: rip and rflags are its last two words
    struct.pack_into("<2Q", registers, 128, CODE, 2)
    fcntl.ioctl(vcpu, KVM_SET_REGS, registers)
    start = time.perf_counter()
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    elapsed = time.perf_counter() - start
    (reason,) = struct.unpack_from("<I", state, 8)
    if reason != EXIT_HLT:
        raise OSError(0, f"the virtual CPU stopped with {EXIT_NAMES.get(reason, f'exit {reason}')}")
    fcntl.ioctl(vcpu, KVM_GET_REGS, registers)
    (counted,) = struct.unpack_from("<Q", registers, 8)
    if counted != turns:
        raise OSError(0, f"the virtual CPU counted {counted} turns instead of {turns}")
    return elapsed


def _supported_cpuid(kvm: int) -> bytearray:
    """struct kvm_cpuid2 with what KVM can give a guest."""
    entries = bytearray(8 + 40 * 256)
    struct.pack_into("<I", entries, 0, 256)
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, entries)
    return entries


def _entries(cpuid: bytearray) -> list[tuple[int, int, int, int, int]]:
    """Function, EAX, EBX, ECX, EDX of each first entry of a leaf."""
    (count,) = struct.unpack_from("<I", cpuid, 0)
    found = (struct.unpack_from("<7I", cpuid, 8 + 40 * position) for position in range(min(count, 256)))
    return [(function, eax, ebx, ecx, edx) for function, index, _, eax, ebx, ecx, edx in found if index == 0]


def _tsc_khz(kvm: int, vcpu: int) -> int:
    """The pace of an unscaled guest's TSC, 0 when the kernel does not tell."""
    if fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, CAP_GET_TSC_KHZ) <= 0:
        return 0
    try:
        return int(fcntl.ioctl(vcpu, KVM_GET_TSC_KHZ, 0))
    except OSError:  # EIO: an unstable TSC
        return 0


def measure(device: str, turns: int) -> dict[str, object]:
    """Make a machine with one page-mapped CPU in long mode and time the loop."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
    if version != 12:
        raise OSError(0, f"it speaks version {version} of the interface instead of 12")
    machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(machine, KVM_SET_TSS_ADDR, UNUSED_ADDRESS)
    memory = mmap.mmap(-1, MEMORY, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anchor = ctypes.c_char.from_buffer(memory)
    region = struct.pack("<IIQQQ", 0, 0, 0, MEMORY, ctypes.addressof(anchor))
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    state = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    cpuid = _supported_cpuid(kvm)
    fcntl.ioctl(vcpu, KVM_SET_CPUID2, cpuid)
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, _long_mode(sregs))
    _run(vcpu, state, memory, 1)  # takes the page faults of a fresh machine
    best = float("inf")
    for _ in range(RUNS):
        best = min(best, _run(vcpu, state, memory, turns))
        if best > ENOUGH_SECONDS:
            break
    capability = {
        name: fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, number)
        for name, number in (
            ("max_vcpus", CAP_MAX_VCPUS),
            ("x2apic_api", CAP_X2APIC_API),
            ("tsc_scaling", CAP_TSC_CONTROL),
            ("pmu_capability", CAP_PMU_CAPABILITY),
        )
    }
    return {"error": None, "seconds": best, "tsc_khz": _tsc_khz(kvm, vcpu), "cpuid": _entries(cpuid), **capability}


def main() -> None:
    signal.alarm(LIFETIME)  # whoever started us may be gone, and a virtual CPU may never come back
    try:
        result = measure(sys.argv[1], int(sys.argv[2]))
    except OSError as error:
        result = {"error": error.strerror, "seconds": None}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
