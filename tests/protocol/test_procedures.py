"""The table of procedures and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from corral.protocol import PROGRAMS, all_procedures, codec, find, procedure


def test_all_are_declared() -> None:
    counts = Counter(row.program for row in all_procedures())
    assert counts.pop(PROGRAMS["CORRAL"][0])
    assert counts == {PROGRAMS["REMOTE"][0]: 453, PROGRAMS["QEMU"][0]: 7}


def test_names_and_numbers_are_unique() -> None:
    rows = list(all_procedures())
    assert len({row.name for row in rows}) == len({row.wire for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("name", "number", "args", "ret"),
    [
        ("connect_open", 1, "remote_connect_open_args", None),
        ("domain_lookup_by_name", 23, "remote_domain_lookup_by_name_args", "remote_domain_lookup_by_name_ret"),
        ("auth_list", 66, None, "remote_auth_list_ret"),
        ("qemu.domain_agent_command", 3, "qemu_domain_agent_command_args", "qemu_domain_agent_command_ret"),
        ("corral.host_report", 1, None, "corral_host_report_ret"),
        ("corral.logs", 2, "corral_logs_args", "corral_logs_ret"),
    ],
)
def test_lookup(name: str, number: int, args: str | None, ret: str | None) -> None:
    row = procedure(name)
    assert (row.number, row.args, row.ret, row.msg) == (number, args, ret, None)
    assert find(row.program, number) is row
    assert find(row.program, number, version=2) is None


def test_unknown_name() -> None:
    with pytest.raises(KeyError):
        procedure("domain_levitate")


def test_streams_and_permissions() -> None:
    assert procedure("domain_open_console").stream == "read"
    assert procedure("storage_vol_upload").stream == "write"
    assert procedure("domain_destroy").acl == ("domain:stop",)
    assert all(row.acl for row in all_procedures())


def test_every_struct_named_exists() -> None:
    for row in all_procedures():
        for name in (row.args, row.ret, row.msg):
            assert name is None or codec(name).name == name


def test_import_is_light() -> None:
    """Under 10 ms of processor time and 10 MiB on top of a bare interpreter (best of a few)."""
    program = (
        "import resource, time\n"
        "memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, start = memory(), time.process_time()\n"
        "import corral.protocol\n"
        "print(time.process_time() - start, memory() - before)\n"
    )
    figures = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})
        seconds, kib = done.stdout.split()
        figures.append((float(seconds), int(kib)))
    assert min(seconds for seconds, _ in figures) < 0.010
    assert min(kib for _, kib in figures) < 10 * 1024
