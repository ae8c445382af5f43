"""Displays and video cards of machines without an operating system: what starts, what is refused, what is opened."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from corral.constants import DomainDeviceModifyFlags, DomainGraphicsReloadType, DomainXMLFlags
from corral.errors import (
    ConfigUnsupported,
    DeviceMissing,
    HostError,
    InternalError,
    InvalidArgument,
    OperationUnsupported,
    ResourceBusy,
)
from corral.hypervisor.displays import displays
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.settings import Displays

from .life import document, opened, settings

pytestmark = pytest.mark.qemu

PNG = b"\x89PNG"
#: A link message that asks for a main channel without capabilities (SPICE protocol, link stage).
LINK = b"REDQ" + struct.pack("<IIIIBBIII", 2, 2, 18, 0, 1, 0, 0, 0, 18)
VENCRYPT, X509_NONE = 19, 260
VNC = "<graphics type='vnc' autoport='yes'/>"
SPICE = "<graphics type='spice' autoport='yes'/>"


@pytest.mark.parametrize("kind", ["vnc", "spice"])
async def test_a_port_that_is_taken_is_named(directory: Path, kind: str) -> None:
    async with opened(directory) as (hypervisor, _):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            devices = f"<graphics type='{kind}' port='{port}' autoport='no'/>"
            domain = await hypervisor.define(document("a", devices=devices))
            with pytest.raises(ResourceBusy, match=f"^resource busy: port {port} at 127.0.0.1 is taken; end what"):
                await domain.create()
        await domain.create()
        await domain.destroy()


@pytest.mark.parametrize(
    ("screens", "cards"),
    [
        (1, "<video><model type='vga' vram='8192'/></video>"),
        (1, "<video><model type='cirrus'/></video>"),
        (1, "<video><model type='vmvga'/></video>"),
        (1, "<video><model type='bochs'><resolution x='800' y='600'/></model></video>"),
        (1, "<video><model type='ramfb'/></video>"),
        (4, "<video><model type='virtio' heads='4'/></video>"),
        (3, "<video><model type='qxl' heads='2'/></video><video><model type='qxl'/></video>"),
        (2, "<video><model type='vga'/></video><video><model type='virtio'/></video>"),
    ],
    ids=["vga", "cirrus", "vmvga", "bochs", "ramfb", "virtio", "qxl", "two cards"],
)
async def test_every_card_has_its_screens(directory: Path, screens: int, cards: str) -> None:
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(document("a", devices=VNC + cards))
        await domain.create()
        pictures = [await domain.screenshot(screen) for screen in range(screens)]
        assert all(picture.data.startswith(PNG) for picture in pictures)
        await domain.destroy()


async def test_several_displays_each_opened_through_the_daemon(directory: Path) -> None:
    async with opened(directory) as (hypervisor, _):
        dbus = "<graphics type='dbus' p2p='yes'/>"
        domain = await hypervisor.define(document("a", devices=VNC + SPICE + dbus))
        await domain.create()
        loop = asyncio.get_running_loop()
        # RFB 7.1.1; SPICE's link message; a line of D-Bus's authentication.
        for index, said, heard in (
            (0, b"", b"RFB 003.008"),
            (1, LINK, b"REDQ"),
            (2, b"\0AUTH\r\n", b"REJECTED EXTERNAL"),
        ):
            with socket.socket(fileno=await domain.open_graphics_fd(index, 0)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, said)
                async with asyncio.timeout(60):
                    assert (await loop.sock_recv(client, 64)).startswith(heard)
        with pytest.raises(InternalError, match="No graphics backend with index 3"):
            await domain.open_graphics_fd(3, 0)
        await domain.destroy()


async def test_opengl_needs_something_that_draws(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host without a render node the start is refused, with the reason; a named one must be there."""
    monkeypatch.setattr(displays, "RENDER_NODES", directory / "dri")
    named = "<graphics type='egl-headless'><gl rendernode='/nowhere/renderD128'/></graphics>"
    local = "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"
    async with opened(directory) as (hypervisor, _):
        for name, devices, reason in (
            ("egl", VNC + "<graphics type='egl-headless'/>", "No DRM render nodes available"),
            ("spice", local, "No DRM render nodes available"),
            ("named", VNC + named, "there is no render node '/nowhere/renderD128'"),
        ):
            domain = await hypervisor.define(document(name, devices=devices))
            with pytest.raises(HostError, match=reason):
                await domain.create()
            assert not domain.active
        far = "<graphics type='spice' autoport='yes'><gl enable='yes'/></graphics>"
        with pytest.raises(ConfigUnsupported, match="spice with OpenGL is for viewers on this host only"):
            await hypervisor.define(document("far", devices=far))


async def test_what_can_be_changed_while_a_display_is_open(directory: Path) -> None:
    """The password; all else is refused by name, in libvirt's words and with its codes, and changes nothing."""
    open_to = "<graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd='one'/>"
    live = DomainDeviceModifyFlags.LIVE
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(document("a", devices=open_to))
        await domain.create()
        refused = [
            (
                "type='vnc' listen='0.0.0.0'",
                OperationUnsupported,
                "cannot change listen address setting on 'vnc' graphics",
            ),
            ("type='vnc' port='5999'", OperationUnsupported, "cannot change port settings on vnc graphics"),
            ("type='vnc' keymap='de'", OperationUnsupported, "cannot change keymap setting on vnc graphics"),
            ("type='spice'", DeviceMissing, "cannot find existing graphics device to modify of type 'spice'"),
        ]
        for attributes, error, message in refused:
            with pytest.raises(error, match=message):
                await hotplug.update(domain, f"<graphics {attributes} passwd='two'/>", live)
        absent = "cannot find existing graphics type 'spice' device to modify"
        with pytest.raises(InvalidArgument, match=absent):
            await hotplug.update(domain, "<graphics type='spice' passwd='two'/>", DomainDeviceModifyFlags.CONFIG)
        assert "passwd='one'" in domain.xml(DomainXMLFlags.SECURE)
        await hotplug.update(domain, "<graphics type='vnc' passwd='two' passwdValidTo='2031-01-01T00:00:00'/>", live)
        assert "passwd='two' passwdValidTo='2031-01-01T00:00:00'" in domain.xml(DomainXMLFlags.SECURE)
        await domain.destroy()


def secured(port: int, authority: Path) -> bytes:
    """Speak RFB with a VNC server until it has let us in over TLS; its certificate. RFC 6143, 7.1; VeNCrypt 0.2."""
    trust = ssl.create_default_context(cafile=str(authority))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        assert plain.recv(12) == b"RFB 003.008\n"
        plain.sendall(b"RFB 003.008\n")
        assert plain.recv(2) == bytes([1, VENCRYPT])
        plain.sendall(bytes([VENCRYPT]))
        assert plain.recv(2) == b"\0\2"
        plain.sendall(b"\0\2")
        assert plain.recv(6) == b"\0\1" + X509_NONE.to_bytes(4)
        plain.sendall(X509_NONE.to_bytes(4))
        assert plain.recv(1) == b"\1"
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as safe:
            assert safe.recv(4) == bytes(4)  # SecurityResult
            return safe.getpeercert(binary_form=True) or b""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (apt-get install openssl)")
async def test_vnc_over_tls_and_certificates_that_are_renewed(directory: Path) -> None:
    certificates = directory / "certificates"
    authority = certificates / "ca-cert.pem"

    async def certify() -> None:
        script = Path(__file__).parents[2] / "scripts" / "display-certificates.sh"
        done = await asyncio.create_subprocess_exec(
            script, certificates, "127.0.0.1", stdout=asyncio.subprocess.DEVNULL
        )
        assert await done.wait() == 0

    await certify()
    chosen = replace(settings(directory), displays=Displays(certificates=certificates, vnc_tls="on"))
    hypervisor = await Hypervisor.open(chosen)
    try:
        domain = await hypervisor.define(document("a", devices=VNC))
        await domain.create()
        port = int(re.findall(r"<graphics type='vnc' port='(\d+)'", domain.xml())[0])
        first = await asyncio.to_thread(secured, port, authority)
        assert await asyncio.to_thread(secured, port, authority) == first

        await certify()
        await domain.graphics_reload(DomainGraphicsReloadType.VNC)
        second = await asyncio.to_thread(secured, port, authority)
        assert second != first

        (certificates / "server-cert.pem").write_text("no certificate")
        with pytest.raises(InternalError):
            await domain.graphics_reload(DomainGraphicsReloadType.VNC)
        assert await asyncio.to_thread(secured, port, authority) == second, "the last good ones stay"
        await domain.destroy()
    finally:
        await hypervisor.close()
