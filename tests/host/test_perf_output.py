"""perf's output, as recorded from a real machine under KVM, and as Intel's and AMD's processors make it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from corral.host.perf_output import exits, most_frequent, stacks

RECORDED = Path(__file__).parent / "perf"

#: Lines of a host whose processor virtualizes; written by hand after the tracepoints' formats.
HARDWARE = """\
       CPU 0/KVM  4242   100.000010:           kvm:kvm_entry: vcpu 0, rip 0xffffffff81000000
       CPU 0/KVM  4242   100.000020:            kvm:kvm_exit: vcpu 0 reason HLT rip 0xffffffff8183 info1 0x0 info2 0x0
       CPU 1/KVM  4243   100.000021:            kvm:kvm_exit: vcpu 1 reason EPT_VIOLATION rip 0x1000 info1 0x184
       CPU 1/KVM  4243   100.000025:           kvm:kvm_entry: vcpu 1, rip 0x1003
       CPU 0/KVM  4242   100.250020:           kvm:kvm_entry: vcpu 0, rip 0xffffffff8184
       CPU 0/KVM  4242   100.250030:            kvm:kvm_exit: reason IO_INSTRUCTION rip 0x7c00 info 3f8000b 0
       CPU 0/KVM  4242   100.250032:  kvm:kvm_userspace_exit: reason KVM_EXIT_IO (2)
       CPU 0/KVM  4242   100.250092:           kvm:kvm_entry: vcpu 0, rip 0x7c01
       CPU 0/KVM  4242   100.250100:            kvm:kvm_exit: reason HLT rip 0x7c01 info 0 0
"""

GUEST_STACK = """\
CPU 0/KVM  4242   100.1: cycles:
	ffffffff81800010 native_safe_halt ([guest.kernel.kallsyms])
	ffffffff81800100 default_idle ([guest.kernel.kallsyms])

qemu-system-x86  4241   100.2: cycles:
	7f1234 [unknown] (/usr/bin/qemu-system-x86_64)
	29d90 __libc_start_call_main (/usr/lib/x86_64-linux-gnu/libc.so.6)
	ffffffffc0a01000 operator()(int) const (/opt/a (deleted))

"""


def test_recorded_exits() -> None:
    found = exits((RECORDED / "userspace-exits.txt").read_text().splitlines())
    io = found.spans["userspace", "IO"]
    assert io.count == 33
    assert io.timed == 33
    assert 7.9e-6 <= io.shortest <= io.total / io.timed <= io.longest < 40e-6
    assert found.events["kvm_pio"] == 45
    assert sum(found.events.values()) == 150


def test_exits_of_a_processor_that_virtualizes() -> None:
    found = exits(HARDWARE.splitlines())
    assert {key: span.count for key, span in found.spans.items()} == {
        ("exit", "HLT"): 2,
        ("exit", "EPT_VIOLATION"): 1,
        ("exit", "IO_INSTRUCTION"): 1,
        ("userspace", "IO"): 1,
    }
    assert round(found.spans["exit", "HLT"].total, 6) == 0.25  # the second has no end in the recording
    assert found.spans["exit", "HLT"].timed == 1
    assert round(found.spans["exit", "EPT_VIOLATION"].total, 6) == 4e-6
    assert round(found.spans["userspace", "IO"].total, 6) == 60e-6


def test_recorded_stacks() -> None:
    found = stacks((RECORDED / "stacks.txt").read_text().splitlines())
    assert found.samples == 17
    assert sum(found.folded.values()) == 17
    assert found.guest == 0
    for stack in found.folded:
        assert stack[0] == "CPU 0/KVM"
        assert stack[1] == "__GI___ioctl"
        assert stack[-1].endswith("_[k]")


def test_guest_frames_are_marked() -> None:
    found = stacks(GUEST_STACK.splitlines())
    assert found.samples == 2
    assert found.guest == 1
    assert found.folded["CPU 0/KVM", "default_idle_[g]", "native_safe_halt_[g]"] == 1
    (other,) = (stack for stack in found.folded if stack[0] == "qemu-system-x86")
    assert other == ("qemu-system-x86", "operator()(int) const", "__libc_start_call_main", "[qemu-system-x86_64]")


def test_the_most_frequent_are_kept() -> None:
    found = stacks((GUEST_STACK + GUEST_STACK.split("\n\n")[0] + "\n\n").splitlines())
    kept, left_out = most_frequent(found, 80)
    assert kept == [(["CPU 0/KVM", "default_idle_[g]", "native_safe_halt_[g]"], 2)]
    assert left_out == 1


@given(st.lists(st.text(max_size=80) | st.sampled_from(HARDWARE.splitlines() + GUEST_STACK.splitlines()), max_size=60))
def test_any_lines(lines: list[str]) -> None:
    found = exits(lines)
    assert all(span.timed <= span.count for span in found.spans.values())
    assert sum(stacks(lines).folded.values()) == stacks(lines).samples
