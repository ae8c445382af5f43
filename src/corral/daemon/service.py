"""The daemon as a process: its directories and sockets, its signals, its readiness, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import grp
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from corral.daemon import Options, activation, handlers
from corral.daemon.server import Server, bind
from corral.errors import CorralError, HostError
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.settings import Displays, Settings
from corral.runtime import runtime_dir

log = logging.getLogger(__name__)

#: Whose members may use the system daemon's sockets, when there is such a group.
GROUP = "corral"
#: Open descriptors that the daemon may have.
DESCRIPTORS = 65536
#: Seconds that a thread which computes may keep the event loop waiting.
SWITCH_INTERVAL = 0.001


def settings_for(options: Options) -> Settings:
    """Everything under one directory, or where the system's or the user's daemon keeps it."""
    choices: dict[str, Any] = {
        "qemu_user": options.qemu_user,
        "allow_slow_kvm": options.allow_slow_kvm,
        "emulator": options.emulator,
        "displays": Displays(
            ports=range(options.display_ports[0], options.display_ports[1] + 1),
            listen=options.display_listen,
            certificates=options.display_certificates,
            vnc_tls=options.vnc_tls,
        ),
    }
    if options.state is not None:
        settings = Settings.under(options.state, **choices)
    else:
        settings = Settings.system(**choices) if os.geteuid() == 0 else Settings.user(**choices)
    return replace(settings, temporary=options.timeout is not None)


def socket_paths(options: Options, settings: Settings, *, handed: bool) -> list[Path]:
    """Where to listen for read-write clients, beside sockets that were handed over; read-only ones have `-ro` added."""
    own = [] if handed and options.socket is None else [options.socket or settings.run / "corral-sock"]
    return [*own, libvirt_socket(settings)] if options.as_libvirt else own


def libvirt_socket(settings: Settings) -> Path:
    """Where plain `virsh` looks for its daemon."""
    if not settings.session:
        return Path("/run/libvirt/libvirt-sock")
    base = runtime_dir() or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "libvirt" / "libvirt-sock"


def _raise_descriptor_limit() -> None:
    """Clients, consoles and machines each take descriptors; the soft limit of old is meant for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(options: Options) -> int:
    """Run the daemon until it is told, or has no more reason, to stay; the exit status."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="corral: %(levelname)s: %(message)s"
        if os.environ.get("JOURNAL_STREAM")
        else "%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # The QMP library reports each end of a connection; what follows from it is reported by those who use it.
    logging.getLogger("qemu").setLevel(logging.CRITICAL)
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Service(options).run())
    except CorralError as error:
        print(f"corral: {error}", file=sys.stderr)
        return 1
    return 0


class _Service:
    """One run of the daemon."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.settings = settings_for(options)
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Open, serve, close."""
        _raise_descriptor_limit()
        handed = activation.inherited()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        handlers.load()
        hypervisor = await Hypervisor.open(self.settings)
        try:
            if hypervisor.domains():
                await hypervisor.offer.warm()
            server = Server(
                hypervisor,
                loop,
                only_uid=os.geteuid() if self.settings.session else None,
                idle_timeout=self.options.timeout,
                on_idle=self.stop.set,
            )
            loop.add_signal_handler(signal.SIGHUP, self._reload, server)
            made = self._listen(server, handed)
            gc.collect()
            gc.freeze()  # what is there now stays; collections need not look at it again
            self._ready()
            server.run(hypervisor.autostart())
            await self.stop.wait()
            activation.notify("STOPPING=1")
            for path, inode in made.items():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == inode:  # else it is already another daemon's
                        path.unlink()
            await server.close()
        finally:
            await hypervisor.close()

    def _listen(self, server: Server, handed: dict[str, list[socket.socket]]) -> dict[Path, int]:
        """Serve the sockets that were handed over, or make our own; the paths of those we made, with their inodes."""
        for name, listeners in handed.items():
            for listener in listeners:
                server.listen(listener, readonly=activation.is_readonly(name, listener))
        made: dict[Path, int] = {}
        for path in socket_paths(self.options, self.settings, handed=bool(handed)):
            if path == self.options.socket and not path.parent.is_dir():  # a slip of the pen makes no directories
                raise HostError(
                    f"cannot listen on '{path}': there is no directory '{path.parent}'", hint="make it first"
                )
            try:
                path.parent.mkdir(mode=0o700 if self.settings.session else 0o755, parents=True, exist_ok=True)
            except OSError as error:
                raise HostError(f"cannot make '{path.parent}': {error.strerror}") from error
            for own, readonly in ((path, False), (path.with_name(path.name + "-ro"), True)):
                mode, group = self._access(readonly=readonly)
                server.listen(bind(own, mode=mode, group=group), readonly=readonly)
                made[own] = own.stat().st_ino
                log.info("listening on %s", own)
        return made

    def _access(self, *, readonly: bool) -> tuple[int, int | None]:
        """Mode and group of a socket, as docs/installing.md and the units have them."""
        if self.options.group is None and (self.settings.session or self.options.state is not None):
            return 0o600, None
        if self.options.group is None and readonly:
            return 0o666, None
        name = self.options.group or GROUP
        try:
            return 0o660, grp.getgrnam(name).gr_gid
        except KeyError:
            if self.options.group is not None:
                raise HostError(f"there is no group '{name}'") from None
            return 0o600, None

    def _ready(self) -> None:
        activation.notify("READY=1", "STATUS=Serving libvirt's protocol")
        if self.options.ready_fd is not None:
            with os.fdopen(self.options.ready_fd, "wb") as ready:
                ready.write(b"\n")

    def _reload(self, server: Server) -> None:
        """Look at the host and its emulators again; machines and clients notice nothing."""
        server.run(self._reloading(server))

    async def _reloading(self, server: Server) -> None:
        activation.notify_reloading()
        try:
            await server.hypervisor.reload()
        finally:
            for answers in server.answers.values():
                answers.clear()
            activation.notify("READY=1")
            log.info("reloaded")
