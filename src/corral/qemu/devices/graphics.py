"""Displays for people far away. They are options of the machine, not parts: QEMU cannot plug them."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.graphics import Graphics
from corral.qemu.context import Context
from corral.qemu.runtime import Command

VNC_BASE = 5900


def options(graphics: Graphics, context: Context) -> list[tuple[str, ...]]:
    """The display's options. Ports must be known by now."""
    keymap = [("-k", graphics.keymap)] if graphics.keymap is not None else []
    if graphics.type == "vnc":
        return [("-vnc", _vnc(graphics, context)), *keymap]
    return [("-spice", _spice(graphics, context)), *keymap]


def setup(graphics: Graphics) -> list[Command]:
    """What is set through the monitor before the guest runs: a password never stands on a command line."""
    if graphics.passwd is None:
        return []
    arguments = {"protocol": graphics.type, "password": graphics.passwd}
    if graphics.connected is not None:
        arguments["connected"] = graphics.connected
    commands: list[Command] = [("set_password", arguments)]
    if graphics.passwd_valid_to is not None:
        commands.append(("expire_password", {"protocol": graphics.type, "time": _moment(graphics.passwd_valid_to)}))
    return commands


def _moment(text: str) -> str:
    from datetime import UTC, datetime

    try:
        return str(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()))
    except ValueError:
        raise ConfigUnsupported(f"cannot parse password validity time '{text}', expect YYYY-MM-DDTHH:MM:SS") from None


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
    if context.domain.devices.audios:
        chosen = graphics.audio.id if graphics.audio is not None else context.domain.devices.audios[0].id
        words.append(f"audiodev=audio{chosen}")
    return ",".join(words)


def _vnc_address(graphics: Graphics, context: Context) -> str:
    listen = graphics.listens[0] if graphics.listens else None
    if listen is not None and listen.type == "socket":
        return f"unix:{_escape(context.own(listen.socket or ''))}"
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
    words = []
    if listen is not None and listen.type == "socket":
        words += ["unix=on", f"addr={_escape(context.own(listen.socket or ''))}"]
    elif listen is not None and listen.type == "none":
        words.append("port=0")
    else:
        words += [f"port={graphics.port}"] if graphics.port and graphics.port > 0 else []
        words.append(f"addr={(listen.address if listen is not None else None) or '127.0.0.1'}")
    if graphics.passwd is None:
        words.append("disable-ticketing=on")
    words += _spice_tuning(graphics)
    words.append("seamless-migration=on")
    return ",".join(words)


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
            words.append(f"rendernode={_escape(graphics.gl.rendernode)}")
    return words


def _escape(value: str) -> str:
    return value.replace(",", ",,")
