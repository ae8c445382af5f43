"""A daemon with a guest that has a screen, and what a person at another computer has: the tests of displays' room."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncvnc
from PIL import Image

import corral
import corral.errors
from corral.client.domain import Domain
from corral.guests import tiny
from labs import corrald

HERE = Path(__file__).parent
NAME = "screen"
T = TypeVar("T")
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

    @contextlib.contextmanager
    def watching(self, ready: str, **wanted: Any) -> Iterator[dict[str, Any]]:
        """A SPICE viewer for as long as the block lasts, from when it says `ready`; what it saw is there afterwards."""
        wanted = {"uri": self.display("spice").split("?")[0], "password": "sesame"} | wanted
        command = ["/usr/bin/python3", str(HERE / "spice_viewer.py"), json.dumps(wanted)]
        seen: dict[str, Any] = {}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as viewer:
            assert viewer.stdin is not None
            assert viewer.stdout is not None
            try:
                assert viewer.stdout.readline() == f"{ready}\n", viewer.stdout.read()
                yield seen
                viewer.stdin.close()
                seen.update(json.loads(viewer.stdout.read()))
                assert seen["events"] == ["opened"]
            finally:
                viewer.kill()

    def vnc(self, password: str, typed: str = "") -> Any:
        """The screen as Pillow's image, after typing something."""

        async def session() -> Any:
            port = 5900 + int(self.virsh("vncdisplay", NAME).rpartition(":")[2])
            async with asyncio.timeout(60), asyncvnc.connect("127.0.0.1", port, password=password) as client:
                for letter in typed:
                    if letter == "\n":
                        client.keyboard.press("Return")
                    else:
                        client.keyboard.write(letter)
                    await client.drain()
                    await asyncio.sleep(0.04)  # a PS/2 keyboard holds few keys that the guest has not taken yet
                return Image.fromarray(await client.screenshot()).convert("RGB")

        return asyncio.run(session())

    def screenshot(self) -> Any:
        """The screen as the daemon pictures it."""
        path = self.directory / "shot"
        self.virsh("screenshot", NAME, str(path))
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")

    def inside(self, script: str) -> str:
        """What a command in the guest prints; "" while it fails."""

        async def work(vm: Domain) -> str:
            return (await vm.exec(["sh", "-c", script])).stdout.decode().strip()

        with contextlib.suppress(corral.errors.CorralError):
            return self.library(work)
        return ""

    def library(self, work: Callable[[Domain], Coroutine[Any, Any, T]]) -> T:
        """Something done with our own library."""

        async def session() -> T:
            async with corral.connect(self.daemon.uri) as host:
                return await work(await host.domain(NAME))

        return asyncio.run(session())

    def corral(self, *words: str, stdin: str = "", ok: bool = True, **environment: str) -> str:
        """Our own program: what it prints, or where it fails what it complains of."""
        command = [sys.executable, "-m", "corral.cli", "--connect", self.daemon.uri, *words]
        clean = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=clean | environment)
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout if ok else done.stderr

    def change(self, attributes: str) -> None:
        document = self.directory / "graphics.xml"
        document.write_text(f"<graphics {attributes}/>")
        self.virsh("update-device", NAME, str(document), "--live")


def obeyed(type_it: Callable[[], object], done: Callable[[], object], what: str) -> None:
    """Type until the guest has done it: a busy guest loses keys of a keyboard that holds sixteen of them."""

    def tried() -> bool:
        type_it()
        end = time.monotonic() + 10
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    until(tried, what, 120)


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


@contextlib.contextmanager
def booted(devices: str) -> Iterator[Desk]:
    """A tiny guest with these devices, once the shell on its screen is there; the screen is clear and has no cursor."""
    guest = asyncio.run(tiny.build())
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        directory = Path(name)
        certificates = directory / "certificates"
        script = HERE.parents[1] / "scripts" / "display-certificates.sh"
        subprocess.run([script, certificates, "127.0.0.1"], check=True, capture_output=True, timeout=60)
        with corrald.running(directory, "--display-certificates", str(certificates)) as daemon:
            desk = Desk(daemon, directory, directory / "events")
            document = directory / "guest.xml"
            document.write_text(tiny.document(NAME, tiny=guest).to_xml().replace("</devices>", devices + "</devices>"))
            desk.virsh("define", str(document))
            desk.virsh("start", NAME)
            listen = ["virsh", "-c", daemon.uri, "event", "--event", "graphics", "--loop", NAME]
            with desk.heard.open("wb") as heard, subprocess.Popen(listen, stdout=heard, stderr=heard) as listener:
                shell = "ls -l /proc/[0-9]*/fd/0 | grep tty1"
                try:
                    until(lambda: desk.inside(shell), "the shell on the guest's screen", 120)
                    # A screen that nobody changes can be compared.
                    cleared = r"printf '\033[?25l\033[2J\033[H' >/dev/tty1 && echo done"
                    until(lambda: desk.inside(cleared) == "done", "the cleared screen")
                    yield desk
                finally:
                    listener.kill()


@contextlib.contextmanager
def desktop() -> Iterator[dict[str, str]]:
    """An X server without a screen: the environment of programs that open windows there."""
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    with (
        tempfile.TemporaryDirectory(prefix="ch") as home,
        subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as server,
    ):
        os.close(writer)
        with os.fdopen(reader) as number:
            display = f":{number.readline().strip()}"
        try:
            yield {"DISPLAY": display, "HOME": home, "NO_AT_BRIDGE": "1", "GSETTINGS_BACKEND": "memory"}
        finally:
            server.terminate()
