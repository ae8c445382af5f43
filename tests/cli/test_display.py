"""What `corral view`, `display` and `screenshot` say and hand on, without a machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from corral.cli.view import instructions, settings
from corral.client.displays import Display, moment
from corral.client.picture import png
from corral.client.uri import forward
from corral.errors import InternalError, InvalidArgument

SPICE = Display("spice", 0, "127.0.0.1", 5901, 5902, None, None, "a b\\c", None)
NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


def test_uris() -> None:
    assert SPICE.uri() == "spice://127.0.0.1:5901?tls-port=5902"
    assert replace(SPICE, address="::1", port=None).uri() == "spice://[::1]?tls-port=5902"
    assert replace(SPICE, tls_port=None).uri("vm.example.org") == "spice://vm.example.org:5901"
    assert replace(SPICE, type="vnc", address=None, socket="/run/a b").uri() == "vnc+unix:///run/a%20b"
    assert replace(SPICE, address=None).uri() is None


def test_what_the_viewer_reads() -> None:
    expected = "[virt-viewer]\ntype=spice\nhost=127.0.0.1\ntitle=web\nport=5901\npassword=a b\\\\c\n"
    assert settings(SPICE, "web") == expected
    secure = settings(replace(SPICE, password=" x"), "web", "one\ntwo\n")
    assert secure.endswith("tls-port=5902\npassword=\\sx\nca=one\\ntwo\\n\n")
    assert "tls-port=5902" in settings(replace(SPICE, port=None), "web")


def test_how_to_see_a_screen_on_another_host() -> None:
    uri = "corral+ssh://me@vm.example.org:2222/system"
    lines = instructions(SPICE, "web", uri, f"corral -c {uri}", "there is no viewer here", True)
    assert lines == [
        "web shows its screen by SPICE on vm.example.org; there is no viewer here.",
        "From here, with ssh kept open beside the viewer:",
        "    ssh -N -L 5901:127.0.0.1:5901 -L 5902:127.0.0.1:5902 -p 2222 me@vm.example.org",
        "    remote-viewer 'spice://localhost:5901?tls-port=5902'",
        "It asks for a password:",
        f"    corral -c {uri} display ls web --password",
    ]


def test_how_to_see_a_screen_that_has_no_port() -> None:
    lines = instructions(replace(SPICE, address=None), "web", "corral:///system", "corral", "", False)
    assert lines == [
        "web shows its screen by SPICE on this host.",
        "It is reached through the daemon alone, so the viewer runs there:",
        "    corral view web",
        "It asks for no password.",
    ]


def test_the_way_that_ssh_carries() -> None:
    assert forward("qemu:///system", "127.0.0.1", 5900) is None
    assert forward("qemu+ssh://me@far:2222/system?keyfile=/k", "::1", 5900) == (
        "ssh", "-T", "-e", "none", "-p", "2222", "-l", "me", "-i", "/k", "-W", "[::1]:5900", "--", "far",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("never", None),
        ("90s", "2030-01-31T12:01:30+00:00"),
        ("7d", "2030-02-07T12:00:00+00:00"),
        ("2030-06-01T08:30", "2030-06-01T08:30:00+00:00"),
        ("2030-06-01T08:30+02:00", "2030-06-01T06:30:00+00:00"),
    ],
)
def test_when_a_password_ends(text: str, ends: str | None) -> None:
    found = moment(text, NOW)
    assert (found.astimezone(UTC).isoformat() if found is not None else None) == ends


@pytest.mark.parametrize("text", ["soon", "5", "12x", "-3h", "2030-13-01", "999999999d"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(InvalidArgument):
        moment(text, NOW)


def test_a_picture_becomes_a_png() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import io

    pixels = bytes(range(18))
    made = png(b"P6\n# made by hand\n3 2\n255\n" + pixels)
    with image.open(io.BytesIO(made)) as picture:
        assert (picture.format, picture.size, picture.tobytes()) == ("PNG", (3, 2), pixels)
    assert png(made) is made


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"P6 3 2 255 " + bytes(17), b"P6 3 2 65535 " + bytes(36)])
def test_no_picture(data: bytes) -> None:
    with pytest.raises(InternalError):
        png(data)
