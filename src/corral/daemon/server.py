"""The daemon's listening sockets and its clients."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.constants import ConnectListAllDomainsFlags
from corral.daemon.answers import Answers
from corral.daemon.lingering import Lingering
from corral.daemon.session import Session
from corral.errors import HostError, ResourceBusy

if TYPE_CHECKING:
    from corral.hypervisor.events import Event
    from corral.hypervisor.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: Clients at a time, and those among them that have not opened the connection yet.
CLIENTS_MAX = 5000
STRANGERS_MAX = 200
#: Connections that the kernel keeps for us, and accepts in one turn of the loop.
BACKLOG = 512
ACCEPT_BATCH = 64
#: Seconds to wait with accepting when descriptors have run out.
ACCEPT_PAUSE = 0.5
#: Seconds that changes under way get to end before the daemon does.
GRACE = 5.0
#: Bytes of a UNIX socket's path (sockaddr_un).
PATH_MAX = 107


def bind(path: Path, *, mode: int, group: int | None = None) -> socket.socket:
    """A listening UNIX socket at `path`, replacing one that nobody listens on.

    Raises ResourceBusy when somebody does, HostError when it cannot be made.
    """
    if len(os.fsencode(path)) > PATH_MAX:
        raise HostError(f"the socket's path '{path}' is longer than {PATH_MAX} bytes")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        umask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        if group is not None:
            os.chown(path, -1, group)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen on '{path}': {error.strerror}") from error
    except ResourceBusy:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():  # anything else is somebody's file; binding will fail on it
                path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise ResourceBusy(f"another daemon listens on '{path}'")


class Server:
    """Accepts clients and keeps their sessions; ends when it has been idle for long enough, if asked to."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        loop: asyncio.AbstractEventLoop,
        *,
        only_uid: int | None = None,
        idle_timeout: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """`only_uid`: nobody but this user and root may connect. `on_idle` is called after `idle_timeout` seconds
        without a client and without an active domain."""
        self.hypervisor = hypervisor
        self.loop = loop
        self.answers = {False: Answers(), True: Answers()}
        self.sessions: set[Session] = set()
        self.lingering = Lingering(loop)
        self._only_uid = only_uid
        self._listeners: list[tuple[socket.socket, bool]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle_timeout = idle_timeout
        self._on_idle = on_idle
        self._idle_timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def listen(self, listener: socket.socket, *, readonly: bool) -> None:
        """Accept clients from a listening socket."""
        self._listeners.append((listener, readonly))
        self.loop.add_reader(listener.fileno(), self._accept, listener, readonly)
        if self._idle_timeout is not None and self._unsubscribe is None:
            self._unsubscribe = self.hypervisor.events.subscribe(self._on_event)
            self._consider_idle()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a change to its end, whoever asked for it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def session_closed(self, session: Session) -> None:
        """A client is gone."""
        self.sessions.discard(session)
        self.run(self.hypervisor.owner_closed(session))
        self._consider_idle()

    async def close(self) -> None:
        """Stop listening, let go of the clients, and give changes under way a moment to end."""
        for listener, _ in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._settle()
        for session in tuple(self.sessions):
            session.close("the daemon ends")
        await self._settle()
        for task in tuple(self._tasks):
            task.cancel()
        await self._settle()

    async def _settle(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the daemon failed", exc_info=error)

    def _accept(self, listener: socket.socket, readonly: bool) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                client, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot accept a client: %s", error.strerror)
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(ACCEPT_PAUSE, self._accept_again, listener, readonly)
                return
            client.setblocking(False)
            self._welcome(client, readonly)

    def _accept_again(self, listener: socket.socket, readonly: bool) -> None:
        if (listener, readonly) in self._listeners:
            self.loop.add_reader(listener.fileno(), self._accept, listener, readonly)

    def _welcome(self, client: socket.socket, readonly: bool) -> None:
        strangers = sum(not session.opened for session in self.sessions) if len(self.sessions) > STRANGERS_MAX else 0
        if len(self.sessions) >= CLIENTS_MAX or strangers > STRANGERS_MAX:
            log.warning("a client is turned away: there are %d already", len(self.sessions))
            client.close()
            return
        session = Session(self, client, readonly=readonly)
        if self._only_uid is not None and session.peer.uid not in (self._only_uid, 0):
            log.warning("%s is turned away: this daemon serves uid %d", session.peer, self._only_uid)
            session.close("not this daemon's user")
            return
        self.sessions.add(session)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _on_event(self, event: Event) -> None:
        self._consider_idle()

    def _consider_idle(self) -> None:
        """Start counting when nobody is connected and nothing runs; checked again when the time is over."""
        if self._idle_timeout is None or self._idle_timer is not None or self.sessions or not self._listeners:
            return
        if not self.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE):
            self._idle_timer = self.loop.call_later(self._idle_timeout, self._idle)

    def _idle(self) -> None:
        self._idle_timer = None
        active = self.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE)
        if self.sessions or active or self._tasks or self._on_idle is None:
            self._consider_idle()
        else:
            self._on_idle()
