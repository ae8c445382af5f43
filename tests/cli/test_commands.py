"""Commands as a person types them: what is printed where, and the exit status."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Corral
from tests.client.peer import NODE, Peer

from corral.cli.app import COMMANDS, GROUPS
from corral.errors import AgentCommandFailed


def test_ps(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    peer.add("db")
    running = corral_("ps")
    assert running.out.splitlines() == [
        "NAME  STATE    VCPUS  MEMORY   CPU TIME  ID",
        "web   running  2      512 MiB  1.5s      1",
    ]
    everything = corral_("ps", "-a").out.splitlines()
    assert everything[1].split() == ["db", "off", "2", "1", "GiB", "-", "-"]
    assert corral_("ps", "-aq").out == "db\nweb\n"  # read by the command-line library: the flags are joined
    assert corral_("ps", "-A").out.splitlines()[1].endswith("10.0.2.15")


def test_ps_json_is_the_same_by_both_ways(peer: Peer, corral_: Corral, uri: str) -> None:
    peer.add("web", running=True)
    short = corral_("ps", "--format", "json")
    rows = json.loads(short.out)
    assert rows[0]["name"] == "web"
    assert (rows[0]["state"], rows[0]["vcpus"], rows[0]["memory_kib"], rows[0]["id"]) == ("running", 2, 524288, 1)
    assert corral_("ps", "--format", "JSON".lower(), "--no-such").status == 2
    assert corral_("-c", uri, "ps", "-aq", "--format=json").out == short.out


@pytest.mark.parametrize("place", ["before", "after", "equals"])
@pytest.mark.parametrize("command", ["ps", "start"])
def test_connect_before_or_after_the_command(
    peer: Peer, corral_: Corral, uri: str, monkeypatch: pytest.MonkeyPatch, place: str, command: str
) -> None:
    peer.add("web")
    monkeypatch.setenv("CORRAL_URI", "corral+unix:///session?socket=/nowhere")
    rest = ["web"] if command == "start" else []
    words = {
        "before": ["--connect", uri, command, *rest],
        "after": [command, *rest, "-c", uri],
        "equals": [command, *rest, f"--connect={uri}"],
    }[place]
    assert corral_(*words).status == 0
    without = corral_(command, *rest)
    assert without.status == 1
    hint = "a daemon of Corral's listens there after `corral daemon --socket /nowhere`"
    assert without.err == f"corral: no daemon listens at /nowhere\n        {hint}\n"


def test_a_life(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    assert corral_("start", "web").out == "web\n"
    again = corral_("start", "web")
    assert (again.status, again.out) == (1, "")
    assert again.err == "corral: Requested operation is not valid: web is running already\n"
    assert "web is running already" in corral_("resume", "web").err
    assert corral_("pause", "web").status == 0
    assert "paused" in corral_("ps").out
    assert corral_("resume", "web").status == 0
    assert corral_("restart", "web").out == "web\n"
    assert corral_("stop", "web").out == "web\n"
    assert peer.domains["web"]["id"] == -1
    assert corral_("restart", "web").status == 0  # one that is off is started
    assert peer.domains["web"]["id"] > 0
    refused = corral_("rm", "web")
    assert (refused.status, "web is running" in refused.err, "corral stop web" in refused.err) == (1, True, True)
    assert corral_("rm", "-f", "web").status == 0
    assert peer.domains == {}


def test_several_at_once_go_on_after_one_has_failed(peer: Peer, corral_: Corral) -> None:
    peer.add("a", running=True)
    peer.add("b", running=True)
    peer.add("c")
    result = corral_("kill", "a", "c", "b", "a")
    assert result.status == 1
    assert sorted(result.out.split()) == ["a", "b"]
    assert result.err == "corral: c: Requested operation is not valid: c is off already\n"
    rows = json.loads(corral_("start", "a", "c", "--format", "json").out)
    assert [(row["name"], row["ok"]) for row in rows] == [("a", True), ("c", True)]


def test_a_guest_that_does_not_listen(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    peer.deaf = True
    result = corral_("stop", "web", "--timeout", "0.2")
    assert (result.status, result.out) == (1, "")
    assert "web is still running after 0.2 s\n        corral kill web turns it off" in result.err
    begun = time.monotonic()
    assert corral_("stop", "web", "--timeout", "0.2", "--force").status == 0
    assert time.monotonic() - begun < 20
    assert peer.domains["web"]["id"] == -1


def test_a_guest_that_still_boots_is_asked_again(peer: Peer, corral_: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.cli.life.AGAIN", 0.1)
    peer.add("web", running=True)
    requests = []
    shut_down = peer._shutdown

    def heard_the_third_time(domain: dict[str, object]) -> None:
        requests.append(domain)
        if len(requests) == 3:
            shut_down(domain)

    monkeypatch.setattr(peer, "_shutdown", heard_the_third_time)
    peer.answers["domain_shutdown"] = lambda session, args: peer._of(args, peer._shutdown)
    assert corral_("stop", "web").status == 0
    assert len(requests) >= 3


def test_did_you_mean(peer: Peer, corral_: Corral) -> None:
    peer.add("webserver")
    result = corral_("start", "websever")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "corral: Domain not found: no machine is called 'websever'\n        did you mean 'webserver'?\n"
    )
    assert "corral ps -a lists all" in corral_("start", "xyz").err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sart", "web"], "no command 'sart'; did you mean 'start'?"),
        (["list"], "no command 'list'; did you mean 'ps'?"),
        (["rm"], "missing argument"),
        (["ps", "--al"], "no such option"),
        (["run", "tiny", "--cpus", "many"], "invalid value for '--cpus'"),
        (["stop", "web", "--format", "xml"], "invalid value for '--format'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(corral_: Corral, words: list[str], complaint: str) -> None:
    result = corral_(*words)
    assert (result.status, result.out) == (2, "")
    assert result.err.lower().startswith(f"corral: {complaint}".lower())
    assert "--help" in result.err.splitlines()[-1]


def test_help(corral_: Corral) -> None:
    whole = corral_("--help")
    assert whole.status == 0
    for command in ("run", "ps", "console", "exec", "edit", "doctor"):
        assert f"\n  {command} " in whole.out
        assert "--connect" in corral_(command, "--help").out
    assert corral_("help").out == whole.out
    assert corral_("help", "ps").out == corral_("ps", "--help").out
    assert corral_("help", "p").status == 2
    assert corral_().status == 2
    assert corral_("--version").out.startswith("corral 0.")


COMMAND_LINES = [[name, *group] for name in COMMANDS for group in ([], *([each] for each in GROUPS.get(name, ())))]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_help_speaks_no_python(corral_: Corral, words: list[str]) -> None:
    told = " ".join(corral_(*words, "--help").out.split())
    assert told.startswith(f"Usage: corral {' '.join(words)} ")
    assert re.findall(r" \[?{[\w\[]|\[\[|<(?:str|int|float|list|path)|x[<>]=|default: \(|\d\.0\b[;\]]", told) == []


def test_help_says_what_may_be_typed(corral_: Corral) -> None:
    told = corral_("run", "--help").out
    assert told.startswith("Usage: corral run [OPTIONS] [IMAGE]\n")
    assert "How many vCPUs.  [default: 1; at least 1]" in told
    assert "Such as 512M or 2G.  [default: 1G, and 256M for tiny]" in told
    assert corral_("exec", "--help").out.startswith("Usage: corral exec [OPTIONS] NAME [--] COMMAND…\n")
    assert "STATE  Plugged in, or pulled.  [up|down]" in corral_("nic", "link", "--help").out
    assert "[default: 80; 10 to 100]" in " ".join(corral_("autoscale", "--help").out.split())


def executed(peer: Peer) -> list[str]:
    """The arguments of the last program that the agent was to run."""
    calls = [call for call in peer.agent_calls if call["execute"] == "guest-exec"]
    arguments: list[str] = calls[-1]["arguments"]["arg"]
    return arguments


def test_exec_passes_everything_on(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    result = corral_("exec", "web", "--", "sh", "-c", "exit 3")
    assert (result.status, result.out, result.err) == (3, "out\n", "err\n")
    assert executed(peer)[-3:] == ["sh", "-c", "exit 3"]
    corral_("exec", "web", "ls", "-l")  # without the --, the rest is the command's too
    assert executed(peer)[-2:] == ["ls", "-l"]
    answer = json.loads(corral_("exec", "web", "--format", "json", "--", "x").out)
    assert answer == {"status": 3, "stdout": "out\n", "stderr": "err\n", "truncated": False}


def test_exec_that_fails(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    peer.add("off")
    peer.agent["guest-exec"] = AgentCommandFailed("Failed to execute child process (No such file or directory)")
    assert corral_("exec", "web", "--", "nope").status == 127
    peer.agent["guest-exec"] = AgentCommandFailed("Failed to execute child process (Permission denied)")
    assert corral_("exec", "web", "--", "nope").status == 126
    peer.agent_connected = False
    result = corral_("exec", "web", "--wait", "0.1", "--", "ls")
    assert result.status == 125
    assert "no agent in web has answered within 0.1 s\n        does the guest run qemu-guest-agent?" in result.err
    assert corral_("exec", "nobody", "--", "ls").status == 125
    assert corral_("exec", "web", "--").status in (2, 125)


def test_logs(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    assert corral_("logs", "web").out == "qemu: one\nqemu: two\n"


def test_doctor(peer: Peer, corral_: Corral) -> None:
    result = corral_("doctor")
    assert result.status == 0
    assert "QEMU 10.0.2" in result.out.splitlines()[0]
    assert result.out.splitlines()[1].split() == ["no", "KVM", "slow"]
    assert "→ use TCG" in result.out
    rows = json.loads(corral_("doctor", "--format", "json").out)
    assert rows[1] == {"name": "KVM", "ok": False, "text": "slow", "hint": "use TCG"}


def test_doctor_without_a_daemon(corral_: Corral) -> None:
    result = corral_("doctor", "-c", "corral+unix:///session?socket=/nowhere")
    assert result.status == 1
    assert result.out.startswith("no daemon  no daemon listens at /nowhere")


def test_doctor_of_a_daemon_that_refuses_us(peer: Peer, corral_: Corral) -> None:
    """It is there, and so it is not said to be missing."""
    peer.answers["auth_list"] = lambda session, args: {"types": [1]}
    result = corral_("doctor")
    assert result.status == 1
    assert result.out.startswith("no connection  the daemon at ") and "wants SASL" in result.out


def test_doctor_of_a_libvirtd(peer: Peer, corral_: Corral) -> None:
    del peer.answers["corral.host_report"]
    peer.answers["node_get_info"] = lambda session, args: {
        "model": "x86_64",
        "memory": 1 << 23,
        "cpus": 2,
        "mhz": 1,
        "nodes": 1,
        "sockets": 1,
        "cores": 2,
        "threads": 1,
    }
    assert "8 GiB" in corral_("doctor").out


def test_events(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    register = peer.answers["connect_domain_event_callback_register_any"]

    def and_start(session: object, args: object) -> object:
        asyncio.get_running_loop().call_later(0.05, peer._start, peer.domains["web"])
        return register(session, args)  # type: ignore[arg-type]

    peer.answers["connect_domain_event_callback_register_any"] = and_start
    line = corral_("events", "--kind", "lifecycle", "-n", "1").out
    assert line.endswith("  web  started (booted)\n")
    peer._stop(peer.domains["web"])
    event = json.loads(corral_("events", "web", "-k", "lifecycle", "-n", "1", "--format", "json").out)
    assert (event["domain"], event["kind"], event["event"], event["detail"]) == (
        "web",
        "lifecycle",
        "started",
        "booted",
    )
    assert corral_("events", "-k", "lifecicle").status == 1


def test_run_from_a_kernel(peer: Peer, corral_: Corral, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"x")
    result = corral_("run", "--kernel", str(kernel), "--name", "web", "--cpus", "2", "--memory", "512M")
    assert result.status == 0
    assert result.out == (
        "web is running (2 vCPUs, 512 MiB); reach it with: corral console web, or corral exec web -- COMMAND\n"
    )
    assert "<vcpu>2</vcpu>" in peer.domains["web"]["xml"]
    assert "not like an option" in corral_("run", "--kernel", str(kernel), "--name", "-x").err
    again = corral_("run", "--kernel", str(kernel), "--name", "web")
    assert again.status == 1
    assert "already exists" in again.err
    assert "corral rm --force web ends and removes it" in again.err
    assert "machine 'web' already exists" in corral_("run", "--kernel", str(kernel), "--name", "web", "--rm").err
    corral_("stop", "web")
    assert "corral start web starts it" in corral_("run", "--kernel", str(kernel), "--name", "web").err
    answer = json.loads(corral_("run", "--kernel", str(kernel), "--format", "json", "--rm").out)
    assert answer["name"] == "vmlinuz"
    nothing = corral_("run")
    assert (nothing.status, nothing.out, len(nothing.err.splitlines())) == (2, "", 2)
    assert "there is no image to run\n        name one: tiny, " in nothing.err


def test_the_output_of_a_pipe_that_closed_is_no_error(peer: Peer, uri: str) -> None:
    import subprocess

    for number in range(50):
        peer.add(f"machine-{number}")
    command = f"'{sys.executable}' -m corral.cli ps -a --connect '{uri}' | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100, check=False)
    assert result.stdout.splitlines()[-1] == "0"
    assert result.stderr == ""


def test_more_memory_than_the_host_has_is_said_and_done(peer: Peer, corral_: Corral) -> None:
    peer.answers["node_get_info"] = lambda session, args: {**NODE, "memory": 4 << 20}
    result = corral_("run", "--kernel", __file__, "--name", "big", "--memory", "5G")
    assert result.status == 0, result.err
    assert "corral: 5 GiB is more than this host's 4 GiB" in result.err
    assert "more than" not in corral_("run", "--kernel", __file__, "--name", "small", "--memory", "3G").err


@pytest.mark.parametrize("words", [("sleep",), ("wake",), ("info",), ("usb", "keyboard")])
def test_what_a_machine_that_is_off_cannot_do(peer: Peer, corral_: Corral, words: tuple[str, ...]) -> None:
    peer.add("web")
    result = corral_(*words, "web", *(["x"] if words[0] == "usb" else []))
    assert result.status == 1
    assert "web is not running\n        corral start web" in result.err


def test_what_is_done_names_its_machine(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    peer.answers["domain_pm_suspend_for_duration"] = peer.answers["domain_pm_wakeup"] = lambda session, args: None
    assert corral_("sleep", "web").out == "web\n"
    assert corral_("wake", "web").out == "web\n"
