"""Real viewers at a real guest's screen: SPICE by Debian's library, VNC by one from the package index, virt-viewer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pycdlib
import pytest

pytest.importorskip("asyncvnc", reason="asyncvnc is not installed")
image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from tests.clients.desk import HERE, NAME, SCANCODES, Desk, booted, desktop, obeyed, until  # noqa: E402
from tests.hypervisor.test_guest_sound import LOUDER, SECOND, TONE, program  # noqa: E402

from corral.client.domain import Domain  # noqa: E402
from labs import corrald  # noqa: E402

pytestmark = [
    pytest.mark.clients,
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]

DEVICES = """
<graphics type='vnc' autoport='yes' passwd='open-me'/>
<graphics type='spice' autoport='yes' passwd='sesame'><image compression='off'/><streaming mode='off'/></graphics>
<video><model type='vga'/></video>
<channel type='spicevmc'><target type='virtio'/></channel>
<sound model='ich9'/>
"""
SSH = """#!{python}
import os, select, socket, sys

if "-W" in sys.argv:
    host, _, port = sys.argv[sys.argv.index("-W") + 1].rpartition(":")
    there = socket.create_connection((host, int(port)))
else:
    there = socket.socket(socket.AF_UNIX)
    there.connect({daemon!r})
while True:
    for ready in select.select([0, there], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else there.recv(65536)
        if not data:
            sys.exit()
        there.sendall(data) if ready == 0 else os.write(1, data)
"""


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with booted(DEVICES) as desk:
        yield desk


def same(desk: Desk, seen: Callable[[], Any]) -> None:
    """What a viewer sees becomes what our own screenshot shows, and something is to be seen."""
    end = time.monotonic() + 60
    while True:
        ours, theirs = desk.screenshot(), seen()
        if ours.tobytes() == theirs.tobytes() and ours.getbbox() is not None:
            return
        assert time.monotonic() < end, f"the viewer sees {theirs.getbbox()} of {theirs.size}, and we {ours.getbbox()}"


def scancodes(text: str) -> list[int]:
    return [SCANCODES[letter] for letter in text]


def test_spice_with_a_password_sees_types_and_is_answered(desk: Desk) -> None:
    picture = desk.directory / "spice.ppm"

    def typed() -> None:
        seen = desk.spice(keys=scancodes("hostname\ntouch /tmp/spice\n"))
        assert seen["events"] == ["opened"]
        assert {"main", "display", "cursor", "inputs"} <= set(seen["channels"])

    obeyed(typed, lambda: "spice" in desk.inside("ls /tmp").split(), "what SPICE typed")

    def look() -> Any:
        desk.spice(picture=str(picture))
        return image.open(picture)

    same(desk, look)


def test_spice_with_tls_and_only_for_our_authority(desk: Desk) -> None:
    port = desk.display("spice").rpartition("tls-port=")[2]
    uri = f"spice://127.0.0.1?tls-port={port}"
    authority = desk.directory / "certificates" / "ca-cert.pem"

    def typed() -> None:
        seen = desk.spice(uri, ca=str(authority), keys=scancodes("touch /tmp/tls\n"))
        assert seen["events"] == ["opened"]

    obeyed(typed, lambda: "tls" in desk.inside("ls /tmp").split(), "what SPICE typed over TLS")
    assert desk.spice(uri)["events"] == ["error-tls"]


def test_vnc_sees_types_and_is_answered(desk: Desk) -> None:
    obeyed(
        lambda: desk.vnc("open-me", "touch /tmp/vnc\n"),
        lambda: "vnc" in desk.inside("ls /tmp").split(),
        "what VNC typed",
    )
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
    assert subprocess.run(readonly, capture_output=True, timeout=100).returncode != 0
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
    until(lambda: heard("initialize", "spice") and heard("initialize", "vnc"), "both kinds")


def test_a_disc_of_the_viewers_comes_over_spices_usb_channel(desk: Desk) -> None:
    """spice-glib's emulated CD drive in a slot that is plugged in live: the guest reads the disc, and both leave."""
    disc, slot = desk.directory / "disc.iso", desk.directory / "slot.xml"
    content = os.urandom(1 << 20)
    iso = pycdlib.PyCdlib()
    iso.new()
    iso.add_fp(io.BytesIO(content), len(content), "/BYTES.;1")
    iso.write(str(disc))
    iso.close()
    slot.write_text("<redirdev bus='usb' type='spicevmc'><alias name='ua-slot'/></redirdev>")
    desk.virsh("attach-device", NAME, str(slot), "--live")
    with desk.watching("plugged", cd=str(disc)):
        until(lambda: "sr0" in desk.inside("ls /sys/block"), "the drive in the guest")
        whole, inside = (hashlib.sha256(data).hexdigest() for data in (disc.read_bytes(), content))
        until(lambda: whole in desk.inside("sha256sum /dev/sr0"), "the disc in the guest")
        mounted = "mount -t iso9660 /dev/sr0 /mnt && sha256sum /mnt/bytes; umount /mnt"
        until(lambda: inside in desk.inside(mounted), "the file on the disc")
        until(lambda: "Spice CD" in desk.inside("cat /sys/bus/usb/devices/*/product"), "its name")
    until(lambda: desk.inside("test -e /sys/block/sr0 || echo gone") == "gone", "the drive's leaving")
    desk.virsh("detach-device", NAME, str(slot), "--live")
    assert "redirdev" not in desk.virsh("dumpxml", NAME)


def test_the_viewer_hears_what_the_guest_plays(desk: Desk) -> None:
    """A tone of the guest's sound card over SPICE's playback channel."""
    louder, second = (base64.b64encode(data).decode() for data in (program(LOUDER), SECOND))
    brought = f"modprobe snd_pcm_oss; echo {louder} | base64 -d >/tmp/louder && chmod +x /tmp/louder && echo set"
    until(lambda: desk.inside(brought) == "set", "the program")
    until(lambda: desk.inside("/tmp/louder </dev/mixer && echo loud") == "loud", "the mixer")
    for last in (False, False, False, True):  # a machine with much to do drops some
        with desk.watching("listening", sound=True) as seen:
            desk.inside(f"echo {second} | base64 -d >/dev/dsp")
        if last or (seen["loud"] > 10_000 and seen["pitch"] == pytest.approx(TONE, rel=0.1)):
            break
    assert seen["loud"] > 10_000, "a good part of a second"
    assert seen["pitch"] == pytest.approx(TONE, rel=0.1)


needs_viewer = pytest.mark.skipif(
    not (shutil.which("virt-viewer") and shutil.which("Xvfb")), reason="needs virt-viewer and xvfb (apt-get install)"
)


@contextlib.contextmanager
def viewing(desk: Desk, *words: str) -> Iterator[None]:
    """A program that opens a window on the guest's screen; the block begins when its connection is there.

    With all its channels: a viewer that goes while one of them is being connected makes libspice-server 0.15.1 end QEMU
    by SIGSEGV.
    """

    def connections() -> int:
        return desk.heard.read_text().count(" initialize ")

    before = connections()
    with (
        desktop() as environment,
        subprocess.Popen(
            words, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as viewer,
    ):
        try:
            until(lambda: connections() > before, "the viewer's connection")
            latest, since = connections(), time.monotonic()
            while time.monotonic() < since + 2:
                time.sleep(0.1)
                if connections() > latest:
                    latest, since = connections(), time.monotonic()
            yield
        finally:
            viewer.terminate()


@needs_viewer
@pytest.mark.parametrize("kind", ["domdisplay", "attach"])
def test_virt_viewer_takes_what_domdisplay_prints(desk: Desk, kind: str) -> None:
    uri = desk.virsh("domdisplay", NAME, "--type", "spice", "--include-password")
    attach = ["virt-viewer", "--attach", "-c", desk.daemon.uri, NAME]
    with viewing(desk, *{"attach": attach, "domdisplay": ["remote-viewer", uri]}[kind]):
        pass


def corral_words(uri: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "corral.cli", "--connect", uri, *words]


@needs_viewer
@pytest.mark.parametrize("kind", ["spice", "vnc"])
def test_corral_view_opens_a_viewer_that_knows_the_password(desk: Desk, kind: str) -> None:
    with viewing(desk, *corral_words(desk.daemon.uri, "view", NAME, "--type", kind)):
        last = [line for line in desk.heard.read_text().splitlines() if " initialize " in line][-1]
        assert kind in last


@needs_viewer
def test_corral_view_reaches_a_display_through_ssh(desk: Desk) -> None:
    """A program in ssh's place joins its standard input and output to what it is told to: the daemon, or -W's port."""
    script = desk.directory / "ssh"
    script.write_text(SSH.format(python=sys.executable, daemon=str(desk.daemon.socket)))
    script.chmod(0o755)
    uri = f"qemu+ssh://far/system?command={script}"
    with viewing(desk, *corral_words(uri, "view", NAME)):
        pass


def test_corral_view_says_what_to_do_where_there_is_no_desktop(desk: Desk) -> None:
    port = desk.display("spice").split("?")[0].rpartition(":")[2]
    said = desk.corral("view", NAME)
    assert "there is no desktop here" in said
    assert f"remote-viewer spice://127.0.0.1:{port}" in said or f"remote-viewer 'spice://127.0.0.1:{port}" in said
    assert f"-L {port}:127.0.0.1:{port}" in said
    assert f"display ls {NAME} --password" in said
    assert "sesame" not in said


def test_corral_screenshot_is_a_png_of_what_virsh_sees(desk: Desk) -> None:
    path = desk.directory / "ours.png"

    def ours() -> Any:
        desk.corral("screenshot", NAME, str(path))
        with image.open(path) as picture:
            assert picture.format == "PNG"
            return picture.convert("RGB")

    until(lambda: desk.inside("echo something to see >/dev/tty1 && echo done") == "done", "the text")
    same(desk, ours)
    assert "no such screen ID: 3" in desk.corral("screenshot", NAME, str(path), "--screen", "3", ok=False)


def test_corral_display_lists_and_changes_passwords(desk: Desk) -> None:
    def listed() -> dict[str, Any]:
        rows = json.loads(desk.corral("display", "ls", NAME, "--password", "--format", "json"))
        return {row["type"]: row for row in rows}

    def change(new: str, *words: str, ok: bool = True) -> str:
        return desk.corral("display", "password", NAME, *words, stdin=f"{new}\n", ok=ok)

    rows = listed()
    assert rows["spice"]["uri"] == desk.display("spice")
    assert (rows["spice"]["password"], rows["vnc"]["password"]) == ("sesame", "open-me")
    assert "sesame" not in desk.corral("display", "ls", NAME)
    shown = json.loads(desk.corral("info", NAME, "--format", "json"))["displays"]
    assert shown == [rows["vnc"]["uri"], rows["spice"]["uri"]]

    said = change("short", "--expires", "1h")
    assert said.startswith(f"{NAME} has a new password for VNC and SPICE, until 20")
    assert desk.spice(password="short")["events"] == ["opened"]
    desk.vnc("short")
    change("short", "--expires", "1s")
    ends = datetime.fromisoformat(listed()["vnc"]["valid_to"]).timestamp()
    until(lambda: time.time() > ends + 1, "the password's end")
    # The SPICE server takes a password that has ended already when it is set as one that ends a second later.
    until(lambda: desk.spice(password="short")["events"] == ["error-auth"], "the refusal of the old password")
    with pytest.raises(PermissionError):
        desk.vnc("short")

    change("sesame", "--type", "spice")
    change("open-me", "--type", "vnc")
    assert desk.spice()["events"] == ["opened"]
    desk.vnc("open-me")
    assert "only 8 permitted" in change("123456789", "--type", "vnc", ok=False)


def test_the_library_opens_displays_through_the_daemon(desk: Desk) -> None:
    """Many at once, between other calls: descriptors go where they belong, and none stays."""

    def descriptors() -> int:
        gc.collect()  # what earlier tests left behind
        return len(list(Path("/proc/self/fd").iterdir()))

    async def work(vm: Domain) -> None:
        async def greeting() -> bytes:
            with await vm.open_display("vnc") as display:
                display.setblocking(False)
                return await asyncio.get_running_loop().sock_recv(display, 12)

        before = descriptors()
        async with asyncio.timeout(60):
            greetings = asyncio.gather(*(greeting() for _ in range(8)))
            states = await asyncio.gather(*(vm.state() for _ in range(8)))
            assert await greetings == [b"RFB 003.008\n"] * 8
        assert {state.name for state in states} == {"running"}
        assert descriptors() == before

    desk.library(work)
