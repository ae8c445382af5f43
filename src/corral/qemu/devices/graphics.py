"""Displays for people far away, and how their pictures are made. They are options of the machine, not parts: QEMU
cannot plug them. https://www.qemu.org/docs/master/system/invocation.html#hxtool-3"""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model import displays
from corral.model.devices.graphics import Graphics
from corral.qemu.context import Context, escape
from corral.qemu.runtime import Command, Part

VNC_BASE = 5900
VNC_CREDENTIALS = "vnc-tls-creds0"
"""The object that holds the certificates of VNC servers."""
LOCAL = ("none", "socket")
"""Where SPICE may listen when it hands on OpenGL's own buffers."""


def options(context: Context) -> list[tuple[str, ...]]:
    """The servers of all displays. Ports must be known by now."""
    words: list[tuple[str, ...]] = []
    for display in context.domain.devices.graphics:
        if display.type == "vnc":
            words.append(("-vnc", _vnc(display, context)))
        elif display.type == "spice":
            words.append(("-spice", _spice(display, context)))
        if display.keymap is not None:
            words.append(("-k", display.keymap))
    return words


def parts(context: Context) -> list[Part]:
    """The certificates of VNC servers, where they have some."""
    tls = context.runtime.tls
    if tls is None or not tls.vnc or not any(display.type == "vnc" for display in context.domain.devices.graphics):
        return []
    directory = context.own(str(tls.directory))
    props = {"qom-type": "tls-creds-x509", "dir": directory, "endpoint": "server", "verify-peer": tls.verify}
    if not context.binary.has_object("tls-creds-x509"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no object 'tls-creds-x509'")
    return [Part("object", VNC_CREDENTIALS, props)]


def draws(graphics: Graphics) -> bool:
    """Whether the display has OpenGL."""
    return graphics.type == "egl-headless" or (graphics.gl is not None and graphics.gl.enable == "yes")


def setup(graphics: Graphics) -> list[Command]:
    """What is set through the monitor before the guest runs: a password never stands on a command line."""
    return [command for command in change(graphics) if command[1].get("time") != "never"]


def change(graphics: Graphics) -> list[Command]:
    """Another password, or another time for it, while the guest runs. An empty password opens to nobody."""
    if graphics.passwd is None:
        return []
    if not graphics.passwd:
        return [("expire_password", {"protocol": graphics.type, "time": "now"})]
    arguments = {"protocol": graphics.type, "password": graphics.passwd}
    if graphics.connected is not None:
        arguments["connected"] = graphics.connected
    moment = displays.valid_to(graphics)
    expiry = {"protocol": graphics.type, "time": "never" if moment is None else str(moment)}
    return [("set_password", arguments), ("expire_password", expiry)]


def backend(context: Context) -> str:
    """What makes the pictures where nobody looks on the host itself."""
    found = [each for each in context.domain.devices.graphics if each.type in ("egl-headless", "dbus")]
    if not found:
        return "none"
    if len(found) > 1:
        raise ConfigUnsupported("graphics of the types egl-headless and dbus do not go together")
    display = found[0]
    if display.type not in context.binary.displays:
        raise ConfigUnsupported(
            f"{display.type} display is not supported with QEMU binary '{context.binary.path}'",
            hint="on Debian install qemu-system-modules-opengl",
        )
    words: list[str] = [display.type]
    if display.type == "dbus":
        words += _dbus(display, context)
    if display.gl is not None and display.gl.rendernode is not None:
        words.append(f"rendernode={escape(display.gl.rendernode)}")
    return ",".join(words)


def _dbus(display: Graphics, context: Context) -> list[str]:
    if display.p2p == "yes":
        words = ["p2p=on"]
    elif display.address is not None:
        words = [f"addr={escape(display.address)}"]
    else:
        raise ConfigUnsupported(
            "graphics type 'dbus' needs a bus",
            hint="name one with address='…', or say p2p='yes' and connect through the daemon",
        )
    if display.gl is not None:
        words.append(f"gl={'on' if display.gl.enable == 'yes' else 'off'}")
    if display.audio is not None:
        words.append(f"audiodev=audio{display.audio.id}")
    return words


def _vnc(graphics: Graphics, context: Context) -> str:
    if not context.binary.has_vnc:
        raise ConfigUnsupported(f"vnc graphics are not supported with QEMU binary '{context.binary.path}'")
    words = [_vnc_address(graphics, context)]
    if graphics.websocket is not None:
        words.append(f"websocket={graphics.websocket if graphics.websocket != -1 else 'on'}")
    if graphics.passwd is not None:
        words.append("password=on")
    if graphics.share_policy is not None:
        words.append(f"share={graphics.share_policy}")
    if graphics.power_control is not None:
        words.append(f"power-control={'on' if graphics.power_control == 'yes' else 'off'}")
    if context.runtime.tls is not None and context.runtime.tls.vnc:
        words.append(f"tls-creds={VNC_CREDENTIALS}")
    if context.domain.devices.audios:
        chosen = graphics.audio.id if graphics.audio is not None else context.domain.devices.audios[0].id
        words.append(f"audiodev=audio{chosen}")
    return ",".join(words)


def _vnc_address(graphics: Graphics, context: Context) -> str:
    listen = graphics.listens[0] if graphics.listens else None
    if listen is not None and listen.type == "socket":
        return f"unix:{escape(context.own(listen.socket or ''))}"
    if listen is not None and listen.type == "none":
        return "none"
    port = graphics.port
    if port is None or not VNC_BASE <= port <= 65535:
        raise ConfigUnsupported(f"vnc port must be in range [{VNC_BASE},65535]")
    host = (listen.address if listen is not None else None) or "127.0.0.1"
    return f"{f'[{host}]' if ':' in host else host}:{port - VNC_BASE}"


def _spice(graphics: Graphics, context: Context) -> str:
    if not context.binary.has_spice:
        raise ConfigUnsupported(
            f"spice graphics are not supported with QEMU binary '{context.binary.path}'",
            hint="on Debian install qemu-system-modules-spice, or use vnc",
        )
    listen = graphics.listens[0] if graphics.listens else None
    where = listen.type if listen is not None else "address"
    if draws(graphics) and where not in LOCAL:
        raise ConfigUnsupported(
            "spice with OpenGL is for viewers on this host only",
            hint="say <listen type='none'/> or 'socket', or have <graphics type='egl-headless'/> beside it",
        )
    words = []
    if listen is not None and where == "socket":
        words += ["unix=on", f"addr={escape(context.own(listen.socket or ''))}"]
    elif where == "none":
        words.append("port=0")
    else:
        words += _spice_ports(graphics, context)
        words.append(f"addr={(listen.address if listen is not None else None) or '127.0.0.1'}")
    if graphics.passwd is None:
        words.append("disable-ticketing=on")
    words += _spice_tuning(graphics)
    words.append("seamless-migration=on")
    return ",".join(words)


def _spice_ports(graphics: Graphics, context: Context) -> list[str]:
    """The plain port, the one with TLS, and the certificates; refuses channels that have no port to go through."""
    plain, secure = graphics.port or 0, graphics.tls_port or 0
    modes = {channel.mode for channel in graphics.channels} | {graphics.default_mode}
    if "secure" in modes and secure <= 0:
        raise ConfigUnsupported("spice secure channels set in XML configuration, but TLS connection is not available")
    if "insecure" in modes and plain <= 0:
        raise ConfigUnsupported("spice insecure channels set in XML configuration, but plain port is not provided")
    words = [f"port={plain}"] if plain > 0 else []
    if secure > 0:
        if context.runtime.tls is None:
            raise ConfigUnsupported("spice TLS port set in XML configuration, but there are no certificates")
        words += [f"tls-port={secure}", f"x509-dir={escape(context.own(str(context.runtime.tls.directory)))}"]
    return words


def _spice_tuning(graphics: Graphics) -> list[str]:
    words = []
    if graphics.mouse is not None:
        words.append(f"agent-mouse={'off' if graphics.mouse.mode == 'server' else 'on'}")
    if graphics.default_mode in ("secure", "insecure"):
        words.append(f"{'tls' if graphics.default_mode == 'secure' else 'plaintext'}-channel=default")
    for channel in graphics.channels:
        if channel.mode != "any":
            words.append(f"{'tls' if channel.mode == 'secure' else 'plaintext'}-channel={channel.name}")
    if graphics.image is not None:
        words.append(f"image-compression={graphics.image.compression}")
    if graphics.jpeg is not None:
        words.append(f"jpeg-wan-compression={graphics.jpeg.compression}")
    if graphics.zlib is not None:
        words.append(f"zlib-glz-wan-compression={graphics.zlib.compression}")
    if graphics.playback is not None:
        words.append(f"playback-compression={graphics.playback.compression}")
    if graphics.streaming is not None:
        words.append(f"streaming-video={graphics.streaming.mode}")
    if graphics.clipboard is not None and graphics.clipboard.copypaste == "no":
        words.append("disable-copy-paste=on")
    if graphics.filetransfer is not None and graphics.filetransfer.enable == "no":
        words.append("disable-agent-file-xfer=on")
    if graphics.gl is not None and graphics.gl.enable == "yes":
        words.append("gl=on")
        if graphics.gl.rendernode is not None:
            words.append(f"rendernode={escape(graphics.gl.rendernode)}")
    return words
