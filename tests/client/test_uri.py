"""Where URIs lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral import runtime
from corral.client import uri as uris
from corral.client.uri import default_uri, parse
from corral.errors import InvalidArgument


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.delenv("CORRAL_URI", raising=False)
    monkeypatch.delenv("CORRAL_SOCKET", raising=False)
    monkeypatch.setattr(uris.os, "geteuid", lambda: 7)


@pytest.mark.parametrize(
    ("uri", "readonly", "name", "sockets"),
    [
        ("corral:///session", False, "qemu:///session", ["/run/user/7/corral/corral-sock"]),
        ("corral:///session", True, "qemu:///session", ["/run/user/7/corral/corral-sock-ro"]),
        ("corral:///system", False, "qemu:///system", ["/run/corral/corral-sock"]),
        ("qemu:///system", False, "qemu:///system", ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"]),
        ("qemu:///system", True, "qemu:///system", ["/run/libvirt/virtqemud-sock-ro", "/run/libvirt/libvirt-sock-ro"]),
        (
            "qemu:///session",
            True,
            "qemu:///session",
            ["/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"],
        ),
        ("qemu:///system?mode=legacy", False, "qemu:///system", ["/run/libvirt/libvirt-sock"]),
        ("qemu+unix:///session?socket=/tmp/s%20x", False, "qemu:///session", ["/tmp/s x"]),
        ("corral+unix:///system?socket=/tmp/s", True, "qemu:///system", ["/tmp/s-ro"]),
    ],
)
def test_local(uri: str, readonly: bool, name: str, sockets: list[str]) -> None:
    address = parse(uri, readonly=readonly)
    assert (address.name, [str(path) for path in address.sockets]) == (name, sockets)
    assert address.command is None


def test_only_ones_own_daemon_is_launched() -> None:
    assert parse("corral:///session").launch == ("corral", "daemon", "--timeout", "120")
    assert parse("qemu:///session").launch == ("libvirtd", "--timeout=120")
    assert parse("corral:///system").launch is None
    assert parse("qemu:///system").launch is None
    assert parse("corral+unix:///session?socket=/x").launch is None


def test_ssh() -> None:
    command = parse("qemu+ssh://ann@far.example:2222/system?keyfile=/k").command
    assert command is not None
    assert command[:9] == ("ssh", "-T", "-e", "none", "-p", "2222", "-l", "ann", "-i")
    assert command[-2] == "far.example"
    assert "exec virt-ssh-helper qemu:///system" in command[-1]
    assert "exec nc -U /run/libvirt/libvirt-sock" in command[-1]


def test_a_host_alone_means_ssh_and_cannot_be_an_option() -> None:
    command = parse("qemu://far/session").command
    assert command is not None
    assert command[-3:-1] == ("--", "far")
    assert "corral/corral-sock" in (parse("corral+ssh://far/session").command or ())[-1]


def test_a_quote_in_the_socket_stays_one_word_of_the_remote_shell() -> None:
    import shlex

    command = parse("qemu+ssh://far/system?socket=/x'%3B reboot").command or ()
    inner = shlex.split(command[-1])
    assert inner[:2] == ["sh", "-c"]
    assert shlex.split(inner[2]) == ["exec", "nc", "-U", "/x'; reboot"]


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("xen:///system", "names no driver"),
        ("system", "names no driver"),
        ("qemu+tls://far/system", "transport 'tls'"),
        ("qemu:///sys", "path '/sys'"),
        ("qemu+unix://far/system", "names a host"),
        ("qemu+ssh:///system", "names no host"),
        ("qemu:///system?sockt=/x", "parameter 'sockt'"),
        ("qemu:///system?mode=odd", "mode 'odd'"),
        ("qemu://far:port/system", "not a connection URI"),
    ],
)
def test_mistakes_are_named(uri: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint) as caught:
        parse(uri)
    assert caught.value.hint


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_uri() == "corral:///session"
    monkeypatch.setattr(uris.os, "geteuid", lambda: 0)
    assert default_uri() == "corral:///system"
    monkeypatch.setenv("CORRAL_SOCKET", "/tmp/mine")
    assert parse(default_uri()).sockets == (Path("/tmp/mine"),)
    monkeypatch.setenv("CORRAL_URI", "qemu:///system")
    assert default_uri() == "qemu:///system"


def test_libvirts_own_variable_counts_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+ssh://far/system")
    assert default_uri() == "qemu+ssh://far/system"
    monkeypatch.setenv("CORRAL_SOCKET", "/tmp/mine")
    assert parse(default_uri()).sockets == (Path("/tmp/mine"),)
    monkeypatch.setenv("CORRAL_URI", "corral:///session")
    assert default_uri() == "corral:///session"
    monkeypatch.delenv("CORRAL_URI")
    monkeypatch.delenv("CORRAL_SOCKET")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "xen:///system")
    with pytest.raises(InvalidArgument, match=r"in \$LIBVIRT_DEFAULT_URI, 'xen:///system' names no driver"):
        default_uri()


def test_the_path_of_a_socket_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for text, path in (("/tmp/a b?c", Path("/tmp/a b?c")), ("./s", tmp_path / "s")):
        assert parse(text).sockets == (path,)
        monkeypatch.setenv("CORRAL_SOCKET", text)
        assert parse(default_uri()).sockets == (path,)
    assert parse("/tmp/s", readonly=True).sockets == (Path("/tmp/s-ro"),)


def test_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fallback as the daemon's settings."""
    from corral.hypervisor.settings import Settings

    monkeypatch.setattr(runtime, "LOGIND", Path("/nowhere"))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert parse("corral:///session").sockets == (Settings.user().run / "corral-sock",)


def test_cron_and_su_find_the_one_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the variable, or with another user's, the directory that logind made counts, here and for the daemon."""
    from corral.daemon.service import libvirt_socket
    from corral.hypervisor.settings import Settings

    me = tmp_path.stat().st_uid
    monkeypatch.setattr(uris.os, "geteuid", lambda: me)
    monkeypatch.setattr(runtime, "LOGIND", tmp_path)
    mine, anothers = tmp_path / str(me), tmp_path / "anothers" if me == 0 else Path("/")
    mine.mkdir()
    if me == 0:
        anothers.mkdir()
        os.chown(anothers, 65534, 65534)
    for variable in ("", str(anothers)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
        assert parse("corral:///session").sockets == (mine / "corral/corral-sock",)
        assert Settings.user().run == mine / "corral"
        assert libvirt_socket(Settings.user()) == mine / "libvirt/libvirt-sock"
