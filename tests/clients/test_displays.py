"""Real viewers at a real guest's screen: SPICE by Debian's library, VNC by one from the package index, virt-viewer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.guests import tiny
from labs import corrald

asyncvnc = pytest.importorskip("asyncvnc", reason="asyncvnc is not installed")
image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]

HERE = Path(__file__).parent
NAME = "screen"
DEVICES = """
<graphics type='vnc' autoport='yes' passwd='open-me'/>
<graphics type='spice' autoport='yes' passwd='sesame'><image compression='off'/><streaming mode='off'/></graphics>
<video><model type='vga'/></video>
<channel type='spicevmc'><target type='virtio'/></channel>
</devices>"""
#: Scancodes of set 1, as SPICE sends keys.
SCANCODES = dict(zip("qwertyuiop", range(16, 26), strict=True)) | dict(zip("asdfghjkl", range(30, 39), strict=True))
SCANCODES |= dict(zip("zxcvbnm", range(44, 51), strict=True)) | {" ": 57, "\n": 28, "/": 53}


@dataclass(frozen=True)
class Desk:
    """A daemon with a guest that has a screen, and what a person at another computer has."""

    daemon: corrald.Daemon
    directory: Path
    heard: Path

    def virsh(self, *words: str, ok: bool = True) -> str:
        command = ["virsh", "-q", "-c", self.daemon.uri, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
        assert not ok or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()

    def display(self, kind: str) -> str:
        return self.virsh("domdisplay", NAME, "--type", kind)

    def spice(self, uri: str | None = None, **wanted: Any) -> dict[str, Any]:
        wanted = {"uri": uri or self.display("spice").split("?")[0], "password": "sesame"} | wanted
        command = ["/usr/bin/python3", str(HERE / "spice_viewer.py"), json.dumps(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    def vnc(self, password: str, typed: str = "") -> Any:
        """The screen as Pillow's image, after typing something."""

        async def session() -> Any:
            port = 5900 + int(self.virsh("vncdisplay", NAME).rpartition(":")[2])
            async with asyncio.timeout(40), asyncvnc.connect("127.0.0.1", port, password=password) as client:
                for letter in typed:
                    if letter == "\n":
                        client.keyboard.press("Return")
                    else:
                        client.keyboard.write(letter)
                    await client.drain()
                    await asyncio.sleep(0.04)
                await asyncio.sleep(0.5 if typed else 0)
                return image.fromarray(await client.screenshot()).convert("RGB")

        return asyncio.run(session())

    def screenshot(self) -> Any:
        """The screen as the daemon pictures it."""
        path = self.directory / "shot"
        self.virsh("screenshot", NAME, str(path))
        return image.open(io.BytesIO(path.read_bytes())).convert("RGB")

    def inside(self, script: str) -> str:
        """What a command in the guest prints; "" while it fails."""

        async def work() -> str:
            import corral

            async with corral.connect(self.daemon.uri) as host:
                return (await (await host.domain(NAME)).exec(["sh", "-c", script])).stdout.decode().strip()

        with contextlib.suppress(Exception):
            return asyncio.run(work())
        return ""

    def change(self, attributes: str) -> None:
        document = self.directory / "graphics.xml"
        document.write_text(f"<graphics {attributes}/>")
        self.virsh("update-device", NAME, str(document), "--live")


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", "import gi; gi.require_version('SpiceClientGLib', '2.0')"], capture_output=True
    )
    if done.returncode:
        pytest.skip("no SPICE client library (apt-get install gir1.2-spiceclientglib-2.0 python3-gi)")
    guest = asyncio.run(tiny.build())
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        directory = Path(name)
        certificates = directory / "certificates"
        script = HERE.parents[1] / "scripts" / "display-certificates.sh"
        subprocess.run([script, certificates, "127.0.0.1"], check=True, capture_output=True, timeout=60)
        with corrald.running(directory, "--display-certificates", str(certificates)) as daemon:
            desk = Desk(daemon, directory, directory / "events")
            document = directory / "guest.xml"
            document.write_text(tiny.document(NAME, tiny=guest).to_xml().replace("</devices>", DEVICES))
            if "spice graphics are not supported" in desk.virsh("define", str(document), ok=False):
                pytest.skip("this QEMU has no SPICE (apt-get install qemu-system-modules-spice)")
            desk.virsh("start", NAME)
            listen = ["virsh", "-c", daemon.uri, "event", "--event", "graphics", "--loop", NAME]
            with desk.heard.open("wb") as heard, subprocess.Popen(listen, stdout=heard, stderr=heard) as listener:
                shell = "ls -l /proc/[0-9]*/fd/0 | grep tty1"
                try:
                    until(lambda: desk.inside(shell), "the shell on the guest's screen", 120)
                    # A screen that nobody changes can be compared.
                    desk.inside(r"printf '\033[?25l\033[2J\033[H' >/dev/tty1")
                    yield desk
                finally:
                    listener.kill()


def same(desk: Desk, seen: Callable[[], Any]) -> None:
    """What a viewer sees becomes what our own screenshot shows."""
    for _ in range(5):
        ours, theirs = desk.screenshot(), seen()
        if ours.tobytes() == theirs.tobytes():
            assert ours.getbbox() is not None, "the screen is black"
            return
    assert ours.size == theirs.size
    raise AssertionError("the viewer's picture differs from our screenshot")


def scancodes(text: str) -> list[int]:
    return [SCANCODES[letter] for letter in text]


def test_spice_with_a_password_sees_types_and_is_answered(desk: Desk) -> None:
    picture = desk.directory / "spice.ppm"
    seen = desk.spice(keys=scancodes("hostname\ntouch /tmp/spice\n"))
    assert seen["events"] == ["opened"]
    assert {"main", "display", "cursor", "inputs"} <= set(seen["channels"])
    until(lambda: desk.inside("ls /tmp") == "spice", "what SPICE typed")

    def look() -> Any:
        desk.spice(picture=str(picture))
        return image.open(picture)

    same(desk, look)


def test_spice_with_tls_and_only_for_our_authority(desk: Desk) -> None:
    port = desk.display("spice").rpartition("tls-port=")[2]
    uri = f"spice://127.0.0.1?tls-port={port}"
    authority = desk.directory / "certificates" / "ca-cert.pem"
    seen = desk.spice(uri, ca=str(authority), keys=scancodes("touch /tmp/tls\n"))
    assert seen["events"] == ["opened"]
    until(lambda: "tls" in desk.inside("ls /tmp"), "what SPICE typed over TLS")
    assert desk.spice(uri)["events"] == ["error-tls"]


def test_vnc_sees_types_and_is_answered(desk: Desk) -> None:
    desk.vnc("open-me", "touch /tmp/vnc\n")
    until(lambda: "vnc" in desk.inside("ls /tmp"), "what VNC typed")
    same(desk, lambda: desk.vnc("open-me"))


def test_wrong_and_expired_passwords_are_refused(desk: Desk) -> None:
    assert desk.spice(password="wrong")["events"] == ["error-auth"]
    with pytest.raises(PermissionError):
        desk.vnc("wrong")

    desk.change("type='spice' passwd='sesame' passwdValidTo='2020-01-01T00:00:00'")
    desk.change("type='vnc' passwd='open-me' passwdValidTo='2020-01-01T00:00:00'")
    assert "2020-01-01" in desk.virsh("dumpxml", NAME)
    assert desk.spice()["events"] == ["error-auth"]
    with pytest.raises(PermissionError):
        desk.vnc("open-me")

    desk.change("type='spice' passwd='another'")
    desk.change("type='vnc' passwd='newer'")
    assert desk.spice(password="sesame")["events"] == ["error-auth"]
    assert desk.spice(password="another")["events"] == ["opened"]
    desk.vnc("newer")
    desk.change("type='spice' passwd='sesame'")
    desk.change("type='vnc' passwd='open-me'")


def test_passwords_are_shown_to_those_who_may_ask(desk: Desk) -> None:
    assert "sesame" not in desk.virsh("dumpxml", NAME)
    assert "passwd='sesame'" in desk.virsh("dumpxml", "--security-info", NAME)
    assert desk.virsh("domdisplay", NAME, "--include-password", "--type", "spice").endswith("password=sesame")
    readonly = ["virsh", "-r", "-c", desk.daemon.uri + "-ro", "dumpxml", "--security-info", NAME]
    assert subprocess.run(readonly, capture_output=True, timeout=30).returncode != 0
    with (Path("/proc") / str(corrald.machines(desk.daemon.state)[0]) / "cmdline").open() as words:
        assert "sesame" not in words.read()


def test_domdisplay_tells_every_display(desk: Desk) -> None:
    assert desk.display("vnc").startswith("vnc://127.0.0.1:")
    assert desk.display("spice").startswith("spice://127.0.0.1:")
    assert len(desk.virsh("domdisplay", "--all", NAME).splitlines()) == 2
    assert desk.virsh("vncdisplay", NAME).startswith("127.0.0.1:")


def test_a_display_is_opened_through_the_daemon(desk: Desk) -> None:
    command = ["/usr/bin/python3", str(HERE / "open_graphics.py"), desk.daemon.uri, NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "given": "RFB 003.008\n",
        "skipped": "0101",
        "taken": "RFB 003.008\n",
        "asked": "0102",
        "refused": "internal error: No graphics backend with index 7",
    }


def test_who_connects_is_told(desk: Desk) -> None:
    desk.spice()
    desk.vnc("open-me")

    def heard(*words: str) -> bool:
        return any(all(word in line for word in words) for line in desk.heard.read_text().splitlines())

    phases = ("connect", "initialize", "disconnect")
    until(lambda: all(heard(f" {phase} local[IPv4 127.0.0.1 ") for phase in phases), "the three events")
    assert heard("initialize", "spice")
    assert heard("initialize", "vnc")


@pytest.mark.skipif(
    not (shutil.which("virt-viewer") and shutil.which("Xvfb")), reason="needs virt-viewer and xvfb (apt-get install)"
)
@pytest.mark.parametrize("kind", ["domdisplay", "attach"])
def test_virt_viewer_takes_what_domdisplay_prints(desk: Desk, kind: str) -> None:
    uri = desk.virsh("domdisplay", NAME, "--type", "spice", "--include-password")
    words = {"attach": ["virt-viewer", "--attach", "-c", desk.daemon.uri, NAME], "domdisplay": ["remote-viewer", uri]}[
        kind
    ]
    before = desk.heard.read_text().count(" initialize ")
    reader, writer = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(writer)
        with os.fdopen(reader) as number:
            screen = f":{number.readline().strip()}"
        home = desk.directory / f"home-{kind}"
        home.mkdir()
        environment = {
            **os.environ,
            "DISPLAY": screen,
            "HOME": str(home),
            "NO_AT_BRIDGE": "1",
            "GSETTINGS_BACKEND": "memory",
        }
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as viewer:
            try:
                until(lambda: desk.heard.read_text().count(" initialize ") > before, "the viewer's connection")
            finally:
                viewer.terminate()
        server.terminate()
