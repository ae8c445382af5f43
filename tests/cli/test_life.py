"""Machines taken through their life: all at once, and where the state they are in allows it not."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Corral
from tests.client.peer import LATER, Answer, Peer

from corral.constants import DomainState
from corral.errors import ConfigUnsupported


def states(peer: Peer) -> dict[str, int]:
    return {name: domain["state_reason"]["state"] for name, domain in peer.domains.items()}


def test_all_machines_that_it_can_be_done_to(peer: Peer, corral_: Corral) -> None:
    peer.add("a", running=True)
    peer.add("b")
    peer.add("c", running=True)
    assert corral_("pause", "c").out == "c\n"
    assert corral_("pause", "--all").out == "a\n"
    assert sorted(corral_("resume", "-a").out.split()) == ["a", "c"]
    assert corral_("resume", "--all").out == ""  # none is paused, and that is no error
    assert corral_("start", "--all").out == "b\n"
    assert sorted(corral_("restart", "--all").out.split()) == ["a", "b", "c"]
    assert sorted(corral_("stop", "--all").out.split()) == ["a", "b", "c"]
    assert set(states(peer).values()) == {DomainState.SHUTOFF}
    corral_("start", "a")
    assert corral_("kill", "--all").out == "a\n"
    assert (corral_("stop", "--all").status, corral_("kill", "--all").out) == (0, "")


@pytest.mark.parametrize("command", ["start", "stop", "kill", "pause", "resume", "restart"])
def test_names_or_all_of_them(peer: Peer, corral_: Corral, command: str) -> None:
    peer.add("a")
    for words, complaint in ((["a", "--all"], "contradict each other"), ([], "no machine was named")):
        result = corral_(command, *words)
        assert (result.status, result.out) == (2, "")
        assert f"{complaint}\n        name machines, or say --all" in result.err
    assert states(peer) == {"a": DomainState.SHUTOFF}


def test_one_that_fails_is_named_among_all(peer: Peer, corral_: Corral) -> None:
    peer.add("a", running=True)
    peer.add("b", running=True)
    peer.deaf = True
    result = corral_("stop", "--all", "--timeout", "0.1")
    assert result.status == 1
    assert "corral: a: " in result.err and "corral: b: " in result.err


def test_a_paused_machine_hears_no_power_button(peer: Peer, corral_: Corral) -> None:
    peer.add("web", running=True)
    corral_("pause", "web")
    for command in ("stop", "restart"):
        result = corral_(command, "web")
        assert (result.status, result.out) == (1, "")
        assert "web is paused\n        corral resume web lets it go on; --force does not ask it" in result.err
    assert states(peer) == {"web": DomainState.PAUSED}
    peer.answers["domain_reset"] = lambda session, args: None
    assert corral_("restart", "--force", "web").status == 0
    assert states(peer) == {"web": DomainState.RUNNING}
    corral_("pause", "web")
    assert corral_("stop", "--force", "web").status == 0
    assert states(peer) == {"web": DomainState.SHUTOFF}


def test_the_wrong_state_is_named_with_what_leads_out_of_it(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    assert "web is off already" in corral_("stop", "web").err
    assert "web is off\n        corral start web starts it" in corral_("pause", "web").err
    corral_("start", "web")
    corral_("pause", "web")
    assert "web is paused\n        corral resume web lets it go on" in corral_("start", "web").err


def test_hints_are_for_the_command_line(peer: Peer, corral_: Corral) -> None:
    def refuse(text: str) -> Answer:
        def answer(session: object, args: object) -> None:
            raise ConfigUnsupported(text)

        return answer

    words = ("run", "--kernel", "/etc/hostname", "--name", "web")
    peer.answers["domain_create_with_flags"] = refuse(
        "passt is not installed; apt-get install passt, or leave <backend>"
    )
    assert corral_(*words).err.endswith(
        "passt is not installed\n        apt install passt where the daemon runs, or leave --port out\n"
    )
    peer.answers["domain_create_with_flags"] = refuse("disk image '/x' of domain 'web' is in use by 'b'; <shareable/>")
    assert corral_(*words).err.endswith("by 'b'\n        corral stop that machine first, or run a copy of the image\n")
    peer.answers["domain_create_with_flags"] = refuse("no; x")
    assert "no; x" in corral_(*words).err


def test_a_daemon_that_goes_away(peer: Peer, corral_: Corral) -> None:
    """In the middle of a command: what happened, and that the machines are not lost with it."""
    peer.add("web", running=True)

    def leave(session: object, args: object) -> object:
        peer.sessions[-1].transport.close()  # type: ignore[union-attr]
        return LATER

    peer.answers["domain_suspend"] = leave
    result = corral_("pause", "web")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "corral: the daemon closed the connection\n"
        "        machines run on; another daemon may have taken over: see corral ps before you try it again\n"
    )


def test_a_machine_that_starts_with_the_daemon(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    asked: list[int] = []
    peer.answers["domain_set_autostart"] = lambda session, args: asked.append(args.autostart)
    assert corral_("autostart", "web").out == "web\n"
    assert corral_("autostart", "web", "--off").out == "web\n"
    assert asked == [1, 0]


def test_another_name(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    result = corral_("rename", "web", "shop")
    assert (result.status, result.out, result.err) == (0, "shop\n", "")
    assert corral_("ps", "-aq").out == "shop\n"
