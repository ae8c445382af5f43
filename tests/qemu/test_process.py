"""A process of ours: spawned, watched, signalled, found again."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.errors import HostError
from corral.host.account import Account
from corral.qemu import process
from corral.qemu.process import Process


async def test_tells_the_exit_status_and_keeps_the_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from before\n")
    child = await Process.spawn(["sh", "-c", "echo out; echo err >&2; exit 7"], log=log)
    assert await child.wait(60) == 7
    assert child.ended
    assert process.last_words(log, len("from before\n")) == "out\nerr"
    assert process.last_words(log).startswith("from before")


async def test_a_kill_is_noticed_within_milliseconds(tmp_path: Path) -> None:
    child = await Process.spawn(["sleep", "60"], log=tmp_path / "log")
    start = time.perf_counter()
    child.kill()
    assert await child.wait(60) == -signal.SIGKILL
    assert time.perf_counter() - start < 0.1
    child.kill()  # and once more: nothing happens


async def test_on_end_is_called_also_when_it_has_ended(tmp_path: Path) -> None:
    child = await Process.spawn(["true"], log=tmp_path / "log")
    calls: list[int] = []
    child.on_end(lambda: calls.append(1))
    await child.wait(60)
    await asyncio.sleep(0)
    child.on_end(lambda: calls.append(2))
    await asyncio.sleep(0)
    assert calls == [1, 2]


async def test_descriptors_keep_their_numbers_and_no_others_pass(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    other, _unused = os.pipe()
    listing = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    child = await Process.spawn([sys.executable, "-c", listing], log=tmp_path / "log", pass_fds=[writer])
    assert await child.wait(60) == 0
    seen = process.last_words(tmp_path / "log")
    assert f" {writer}," in seen or f" {writer}]" in seen
    assert f" {other}," not in seen
    for descriptor in (reader, writer, other, _unused):
        os.close(descriptor)


async def test_lives_in_its_own_session_without_our_stdin(tmp_path: Path) -> None:
    child = await Process.spawn(["sh", "-c", "readlink /proc/self/fd/0; exec sleep 60"], log=tmp_path / "log")
    try:
        assert os.getsid(child.pid) == child.pid
        for _ in range(500):
            if process.last_words(tmp_path / "log"):
                break
            await asyncio.sleep(0.01)
        assert process.last_words(tmp_path / "log") == "/dev/null"
    finally:
        child.kill()
        await child.wait(60)


async def test_a_wait_that_times_out_leaves_it_alone(tmp_path: Path) -> None:
    child = await Process.spawn(["sleep", "60"], log=tmp_path / "log")
    with pytest.raises(TimeoutError):
        await child.wait(0.01)
    assert not child.ended
    child.terminate()
    assert await child.wait(60) == -signal.SIGTERM


async def test_adopted_by_pid_and_start_time(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220 - another parent's child, as far as we know
    try:
        adopted = Process.adopt(other.pid, process.start_time(other.pid))
        adopted.kill()
        assert await adopted.wait(60) is None or other.wait() == -signal.SIGKILL
        with pytest.raises(HostError, match="is gone"):
            Process.adopt(os.getpid(), process.start_time(os.getpid()) + 1)
    finally:
        other.kill()
        other.wait()
    with pytest.raises(HostError, match="is gone"):
        Process.adopt(other.pid, 1)


async def test_let_go_it_runs_on(tmp_path: Path) -> None:
    child = await Process.spawn(["sleep", "60"], log=tmp_path / "log")
    pid = child.pid
    child.close()
    del child
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead already


async def test_what_cannot_be_executed_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot execute /no/such: No such file"):
        await Process.spawn(["/no/such"], log=tmp_path / "log")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change the user")
async def test_runs_as_another_user(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account("nobody", nobody.pw_uid, nobody.pw_gid)
    child = await Process.spawn(["id"], log=tmp_path / "log", account=account)
    assert await child.wait(60) == 0
    group = grp.getgrgid(nobody.pw_gid).gr_name
    identity = f"{nobody.pw_gid}({group})"
    assert process.last_words(tmp_path / "log") == f"uid={nobody.pw_uid}(nobody) gid={identity} groups={identity}"


async def test_found_by_its_marker(tmp_path: Path) -> None:
    child = await Process.spawn(
        [sys.executable, "-c", "import time; time.sleep(60)", "corral-marker-one", "corral-marker-two"],
        log=tmp_path / "log",
    )
    try:
        assert process.find_by_marker("corral-marker-one", "corral-marker-two") == [(child.pid, child.start_time)]
        assert process.find_by_marker("corral-marker-one", "corral-marker-three") == []
    finally:
        child.kill()
        await child.wait(60)


def test_last_words_are_bounded_and_without_terminals(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("char device redirected to /dev/pts/3 (label charserial0)\n" + "x" * 10_000 + "\nthe end\n")
    assert process.last_words(log).endswith("the end")
    assert len(process.last_words(log)) <= 4096
    log.write_text("char device redirected to /dev/pts/3 (label charserial0)\nno bootable device\n")
    assert process.last_words(log) == "no bootable device"
    assert process.last_words(tmp_path / "none") == ""


async def test_a_caller_who_gives_up_leaves_no_process(tmp_path: Path) -> None:
    marker = f"corral-marker-{tmp_path.name}"
    (tmp_path / marker).touch()
    # One process that starts no other, which could outlive it.
    spawning = asyncio.ensure_future(Process.spawn(["tail", "-f", str(tmp_path / marker)], log=tmp_path / "log"))
    await asyncio.sleep(0)
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert process.find_by_marker(marker) == []
