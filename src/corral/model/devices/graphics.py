"""Displays: VNC and SPICE for people far away, D-Bus and OpenGL on the host. https://libvirt.org/formatdomain.html#graphical-framebuffers"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, OnOff, Secret, Unsigned, YesNo

Port = Annotated[int, Field(ge=-1, le=65535)]
"""A TCP port; -1 asks for a free one."""

SecurityMode = Literal["any", "secure", "insecure"]


class Listen(Element, tag="listen"):
    """Where clients connect; `none` means only through the daemon."""

    type: Literal["address", "network", "socket", "none"] = attr()
    address: str | None = attr(default=None)
    network: str | None = attr(default=None)
    socket: str | None = attr(default=None)


class SpiceChannel(Element, tag="channel"):
    name: Literal["main", "display", "inputs", "cursor", "playback", "record", "smartcard", "usbredir"] = attr()
    mode: SecurityMode = attr()


class ImageCompression(Element, tag="image"):
    compression: Literal["auto_glz", "auto_lz", "quic", "glz", "lz", "off"] = attr()


class WanCompression(Element):
    """How `<jpeg>` or `<zlib>` compresses on a slow link."""

    compression: Literal["auto", "never", "always"] = attr()


class Playback(Element, tag="playback"):
    compression: OnOff = attr()


class Streaming(Element, tag="streaming"):
    mode: Literal["filter", "all", "off"] = attr()


class SpiceMouse(Element, tag="mouse"):
    mode: Literal["server", "client"] = attr()


class SpiceClipboard(Element, tag="clipboard"):
    copypaste: YesNo = attr()


class FileTransfer(Element, tag="filetransfer"):
    enable: YesNo = attr()


class GL(Element, tag="gl"):
    """Drawing by OpenGL; SPICE must say whether (`enable`), D-Bus may, for egl-headless it is what it is there for."""

    enable: YesNo | None = attr(default=None)
    rendernode: str | None = attr(default=None)


class GraphicsAudio(Element, tag="audio"):
    """The id of the `<audio>` backend that the display carries."""

    id: Unsigned = attr()


class Graphics(Element, tag="graphics"):
    """How the screen is shown: a VNC or SPICE server, the private D-Bus, or OpenGL for one of the servers.

    Port -1 or `autoport='yes'` lets the daemon choose the port; `address` is D-Bus's bus, `p2p` has none: clients come
    through the daemon. What belongs to which type: `corral.model.displays`.
    """

    type: Literal["vnc", "spice", "egl-headless", "dbus"] = attr()
    port: Port | None = attr(default=None)
    tls_port: Port | None = attr(name="tlsPort", default=None)
    autoport: YesNo | None = attr(default=None)
    websocket: Port | None = attr(default=None)
    socket: str | None = attr(default=None)
    listen: str | None = attr(default=None)
    keymap: str | None = attr(default=None)
    address: str | None = attr(default=None)
    p2p: YesNo | None = attr(default=None)
    share_policy: Literal["allow-exclusive", "force-shared", "ignore"] | None = attr(name="sharePolicy", default=None)
    power_control: YesNo | None = attr(name="powerControl", default=None)
    passwd: Annotated[str, Secret()] | None = attr(default=None)
    passwd_valid_to: str | None = attr(name="passwdValidTo", default=None)
    connected: Literal["keep", "disconnect", "fail"] | None = attr(default=None)
    default_mode: SecurityMode | None = attr(name="defaultMode", default=None)
    listens: list[Listen] = element(tag="listen", default_factory=list)
    channels: list[SpiceChannel] = element(tag="channel", default_factory=list)
    image: ImageCompression | None = element(default=None)
    jpeg: WanCompression | None = element(default=None)
    zlib: WanCompression | None = element(default=None)
    playback: Playback | None = element(default=None)
    streaming: Streaming | None = element(default=None)
    mouse: SpiceMouse | None = element(default=None)
    clipboard: SpiceClipboard | None = element(default=None)
    filetransfer: FileTransfer | None = element(default=None)
    gl: GL | None = element(default=None)
    audio: GraphicsAudio | None = element(default=None)
