"""One client: its socket, its connection's state machine, its calls, streams and registrations.

Bytes are read with recvmsg, because descriptors may ride on them, and all that one read brought is answered with one
write. Queries are answered on the spot; changes become tasks, at most `RUNNING_MAX` at a time, and are answered as they
are done. Reading stops while the client does not take its answers, while too many of its changes wait, and while a
stream's consumer is slow; nothing else makes a client wait for another, or for itself.
"""

from __future__ import annotations

import array
import asyncio
import logging
import math
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from corral.daemon.dispatch import Result, Route, domain_of, reference, route_of
from corral.daemon.stream import Stream
from corral.daemon.subscriptions import Subscriptions
from corral.errors import CorralError, InternalError
from corral.protocol.codec import codec
from corral.protocol.connection import Connection
from corral.protocol.events import Call, ConnectionLost, Event, StreamAbort, StreamData, StreamEnd, StreamHole
from corral.protocol.interface import FDS_MAX

if TYPE_CHECKING:
    from corral.daemon.server import Server
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.protocol.procedures import Procedure

log = logging.getLogger(__name__)

READ_SIZE = 65536
CONTROL_SIZE = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)

#: Changes of one client that run at a time, and those that wait behind them before we read no more.
RUNNING_MAX = 256
WAITING_MAX = 1024
#: Seconds of dispatching before other clients get their turn.
TURN = 0.004
#: Bytes of answers that are written before more calls are looked at.
BATCH = 1 << 20
#: Seconds until a client must have opened the connection, and within which one that gets data must take some.
OPEN_TIMEOUT = 30.0
STALL_TIMEOUT = 60.0

#: Procedures that make sense before the connection is open.
BEFORE_OPEN = frozenset({"connect_open", "connect_close", "connect_supports_feature", "auth_list"})

_CREDENTIALS = struct.Struct("3i")


class Peer:
    """Who is at the other end of a UNIX socket, as the kernel says."""

    __slots__ = ("gid", "pid", "uid")

    def __init__(self, sock: socket.socket) -> None:
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )

    def __str__(self) -> str:
        return f"pid {self.pid} uid {self.uid}"


class Session:
    """One client from accept to the end of its socket."""

    def __init__(self, server: Server, sock: socket.socket, *, readonly: bool) -> None:
        self.server = server
        self.loop = server.loop
        self.hypervisor: Hypervisor = server.hypervisor
        self.readonly = readonly
        self.peer = Peer(sock)
        self.opened = False
        self.closed = False
        self.subscriptions = Subscriptions(self._send_event, server.hypervisor, server.loop)
        self._sock = sock
        self._fd = sock.fileno()
        self._connection = Connection("server")
        self._answers = server.answers[readonly]
        self._backlog: deque[Event] = deque()
        self._waiting: deque[tuple[Route, Call, Domain | None, Any]] = deque()
        self._running = 0
        self._streams: dict[int, Stream] = {}
        self._unsent: memoryview | None = None
        #: Descriptors whose bytes are being written.
        self._attached: list[int] = []
        self._stalled_since = 0.0
        self._accepted_at = time.monotonic()
        self._drained: list[asyncio.Future[None]] = []
        self._paused: set[str] = set()
        self._leaving = False
        self._flush_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        self.loop.add_reader(self._fd, self.read)
        self._arm()

    # What handlers call.

    def open(self, *, readonly: bool) -> None:
        """The client opened the connection, perhaps read-only on a socket that allows more."""
        self.opened = True
        self.readonly = self.readonly or readonly
        self._answers = self.server.answers[self.readonly]

    def close_after_reply(self) -> None:
        """End the connection as soon as what is being answered is out."""
        self._leaving = True

    def enable_keepalive(self) -> None:
        """The client answers pings; from now on one that does not is gone."""
        self._connection.start_keepalive(time.monotonic())
        self._arm()

    # Reading.

    @property
    def awaited(self) -> bool:
        """Whether nothing is to be done for the client but to read its next call."""
        return not (self._paused or self._running or self._flush_soon or self.closed)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._fd

    def read(self) -> None:
        """Take what the client sent, and do it."""
        try:
            data, control, _flags, _address = self._sock.recvmsg(READ_SIZE, CONTROL_SIZE, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"cannot read: {error.strerror}")
            return
        if control:
            self._connection.receive_fds(_descriptors(control))
        now = time.monotonic()
        alone = self.server.lingering.arrived(self, now)
        self._backlog += self._connection.receive_data(data, now)
        _close(self._connection.take_fds())
        self._process(now, at_once=alone)

    def _process(self, now: float, *, at_once: bool = True) -> None:
        """Act on what arrived until all is done, or the client must take its answers first, or it is others' turn."""
        backlog = self._backlog
        until = now + TURN
        while backlog and not self.closed:
            event = backlog.popleft()
            if type(event) is Call:
                self._on_call(event)
                if self._connection.outgoing > BATCH:
                    self._flush()
                    if self._unsent is not None:
                        break
                if backlog and time.monotonic() > until:
                    self._pause("turn")
                    self.loop.call_soon(self._next_turn)
                    break
            else:
                self._on_event(event)
        if at_once:
            self._flush()
        else:  # others talk too: all are read before any is answered, and whoever reads them all wakes once
            self._wake()

    def _next_turn(self) -> None:
        if not self.closed:
            self._resume("turn")
            self._process(time.monotonic())

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ConnectionLost):
            self.close(event.reason)
            return
        assert isinstance(event, StreamData | StreamHole | StreamEnd | StreamAbort)
        stream = self._streams.get(event.serial)
        if stream is None:
            return
        match event:
            case StreamData(data=data):
                stream.feed(data)
                if stream.full:
                    self._pause("stream")
            case StreamHole(length=length):
                stream.hole(length)
                if stream.full:
                    self._pause("stream")
            case StreamEnd():
                stream.finish()
            case StreamAbort():
                stream.close()

    def _on_call(self, call: Call) -> None:
        procedure = call.procedure
        hit = self._answers.get((procedure, call.body))
        if hit is not None and hit[0].generation == hit[1] and self.opened:
            if call.fds:
                _close_fds(call)
            self._connection.send_reply_bytes(call.serial, procedure, hit[2])
            return
        try:
            self._begin(call)
        except CorralError as error:
            self._connection.send_error(call.serial, procedure, error)
            _close_fds(call)
        except Exception as error:
            self._connection.send_error(call.serial, procedure, _fault(procedure, error))
            _close_fds(call)

    def _begin(self, call: Call) -> None:
        procedure = call.procedure
        if not self.opened and procedure.name not in BEFORE_OPEN:
            raise InternalError("connection not open")
        if self._leaving:
            raise InternalError("the connection is being closed")
        route = route_of(procedure)
        args = call.args()
        route.check(args, self.readonly)
        domain = domain_of(self, args.dom) if route.on_domain else None
        if not route.takes_fds:
            _close_fds(call)
        if not route.asynchronous:
            self._answer(route, call, route.run(self, domain, args), domain)
        elif self._running < RUNNING_MAX:
            self._start(route, call, domain, args)
        else:
            self._waiting.append((route, call, domain, args))
            if len(self._waiting) >= WAITING_MAX:
                self._pause("calls")

    def _answer(self, route: Route, call: Call, result: Any, domain: Domain | None) -> None:
        if route.result is Result.DOMAIN:
            domain = result
            result = {"dom": reference(result)}
        body = _encode(route.procedure, result)
        self._connection.send_reply_bytes(call.serial, route.procedure, body)
        if route.cached:
            self._answers.put((route.procedure, call.body), domain or self.hypervisor, body)

    # Changes.

    def _start(self, route: Route, call: Call, domain: Domain | None, args: Any) -> None:
        if call.procedure.stream is not None:
            self._streams[call.serial] = Stream(self, call.serial, call.procedure)
        self._running += 1
        self.server.run(self._change(route, call, domain, args))

    async def _change(self, route: Route, call: Call, domain: Domain | None, args: Any) -> None:
        """Run a coroutine handler to its end, whether or not the client is still there, and answer it."""
        try:
            self._finish(route, call, await route.run(self, domain, args, call.fds))
        except CorralError as error:
            self._fail(call, error)
        except Exception as error:
            self._fail(call, _fault(call.procedure, error))
        finally:
            _close_fds(call)
            self._running -= 1
            if self.closed:  # what it created for this client's time only came too late for the client's end
                self.server.run(self.hypervisor.owner_closed(self))
            else:
                self._start_waiting()
                self._wake()

    def _finish(self, route: Route, call: Call, result: Any) -> None:
        if route.result is Result.DESCRIPTORS:
            record, fds = result
            if self.closed:
                _close(fds)
                return
            try:
                self._connection.send_reply(call.serial, route.procedure, record, fds)
            except BaseException:
                _close(fds)
                raise
            return
        if route.result is not Result.STREAM:
            if not self.closed:
                self._answer(route, call, result, None)
            return
        record, source = result
        stream = self._streams.get(call.serial)
        if self.closed or stream is None:
            source.close()
            return
        try:
            self._connection.send_reply_bytes(call.serial, route.procedure, _encode(route.procedure, record))
        except BaseException:
            source.close()
            raise
        stream.attach(source)

    def _fail(self, call: Call, error: CorralError) -> None:
        if self.closed:
            return
        self._connection.send_error(call.serial, call.procedure, error)
        stream = self._streams.get(call.serial) if call.procedure.stream is not None else None
        if stream is not None:
            stream.close()

    def _start_waiting(self) -> None:
        while self._waiting and self._running < RUNNING_MAX and not self.closed:
            self._start(*self._waiting.popleft())
        if len(self._waiting) < WAITING_MAX // 2:
            self._resume("calls")

    # Events and streams.

    def _send_event(self, procedure: Procedure, message: dict[str, Any]) -> None:
        if not self.closed:
            self._connection.send_event(procedure, message)
            self._wake()

    def send_stream(self, stream: Stream, data: bytes) -> None:
        """Bytes of a stream for the client."""
        self._connection.send_stream_data(stream.serial, stream.procedure, data)
        self._wake()

    def send_hole(self, stream: Stream, length: int) -> None:
        """A hole in a stream for the client."""
        self._connection.send_stream_hole(stream.serial, stream.procedure, length)
        self._wake()

    def end_stream(self, stream: Stream) -> None:
        """No more bytes of a stream, or all that the client sent has been taken."""
        self._connection.send_stream_end(stream.serial, stream.procedure)
        self._wake()

    def abort_stream(self, stream: Stream, error: CorralError) -> None:
        """A stream broke."""
        if not self.closed:
            self._connection.send_stream_abort(stream.serial, stream.procedure, error)
            self._wake()

    def forget_stream(self, stream: Stream) -> None:
        """A stream is over."""
        if self._streams.get(stream.serial) is stream:
            del self._streams[stream.serial]
        self.stream_drained()

    def stream_drained(self) -> None:
        """A stream's consumer caught up."""
        if not any(stream.full for stream in self._streams.values()):
            self._resume("stream")

    async def writable(self) -> None:
        """Wait until the client has taken what is there for it, more or less."""
        while not self.closed and (self._unsent is not None or self._connection.outgoing > BATCH):
            drained = self.loop.create_future()
            self._drained.append(drained)
            await drained

    # Writing.

    def _wake(self) -> None:
        """Write soon, together with whatever else happens in this turn of the loop."""
        if not self._flush_soon and not self.closed:
            self._flush_soon = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_soon = False
        if self.closed:
            return
        while self._unsent is None and not self.closed:
            if data := self._connection.data_to_send():
                self._send(data)
            elif fds := self._connection.fds_to_send():
                self._attached = list(fds)
                self._send(bytes(len(fds)))
            else:
                break
        if self.closed:
            return
        if self._connection.lost is not None:
            self.close(self._connection.lost)
        elif self._unsent is None:
            if self._leaving and not self._running:
                self.close("closed by the client")
                return
            if self._paused:
                self._resume("answers")
            if self._drained:
                self._wake_writers()
        if self._connection.timed or self._unsent is not None or not self.opened:
            self._arm()

    def _wake_writers(self) -> None:
        for drained in self._drained:
            if not drained.done():
                drained.set_result(None)
        self._drained.clear()

    def _send(self, data: bytes | memoryview) -> None:
        try:
            if self._attached:  # one byte carries each
                sent = socket.send_fds(self._sock, [data[:1]], self._attached[:1])
            else:
                sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.close(f"cannot write: {error.strerror}")
            return
        if self._attached and sent:
            os.close(self._attached.pop(0))
        if sent == len(data):
            if self._unsent is not None:
                self._unsent = None
                self.loop.remove_writer(self._fd)
            return
        if self._unsent is None:
            self.loop.add_writer(self._fd, self._on_writable)
            self._pause("answers")
        self._unsent = memoryview(data)[sent:]
        if sent or not self._stalled_since:
            self._stalled_since = time.monotonic()

    def _on_writable(self) -> None:
        assert self._unsent is not None
        self._send(self._unsent)
        if self._unsent is None:
            self._stalled_since = 0.0
            self._flush()
            self._process(time.monotonic())

    # Time and the end.

    def _deadline(self) -> float:
        """When something must have happened, on the clock of time.monotonic."""
        deadline = self._connection.next_deadline(time.monotonic())
        if deadline is None:
            deadline = math.inf
        if not self.opened:
            deadline = min(deadline, self._accepted_at + OPEN_TIMEOUT)
        if self._unsent is not None:
            deadline = min(deadline, self._stalled_since + STALL_TIMEOUT)
        return deadline

    def _arm(self) -> None:
        """Have the timer fire no later than the next deadline; one that fires early is set again."""
        deadline = self._deadline()
        if deadline >= self._armed_for or self.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = deadline
        self._timer = self.loop.call_later(max(0.0, deadline - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._armed_for = math.inf
        now = time.monotonic()
        if not self.opened and now >= self._accepted_at + OPEN_TIMEOUT:
            self.close("did not open the connection in time")
        elif self._unsent is not None and now >= self._stalled_since + STALL_TIMEOUT:
            self.close("does not read its answers")
        else:
            self._backlog += self._connection.tick(now)
            self._process(now)

    def _pause(self, why: str) -> None:
        if not self._paused:
            self.loop.remove_reader(self._fd)
            self._connection.reading = False
        self._paused.add(why)

    def _resume(self, why: str) -> None:
        if why in self._paused:
            self._paused.remove(why)
            if not self._paused and not self.closed:
                self._connection.reading = True
                self.loop.add_reader(self._fd, self.read)

    def close(self, reason: str) -> None:
        """End the connection; what the client began runs on."""
        if self.closed:
            return
        self.closed = True
        log.debug("client %s: %s", self.peer, reason)
        self.loop.remove_reader(self._fd)
        self.loop.remove_writer(self._fd)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self.subscriptions.clear()
        for call in (*self._backlog, *(call for _, call, _, _ in self._waiting)):
            if isinstance(call, Call):
                _close_fds(call)
        self._backlog.clear()
        self._waiting.clear()
        for stream in tuple(self._streams.values()):
            stream.close()
        self._wake_writers()
        self._connection.close()
        self.server.lingering.forget(self)
        _close((*self._connection.take_fds(), *self._attached))
        self._attached.clear()
        self.server.session_closed(self)


def _close_fds(call: Call) -> None:
    """Close the descriptors that came with a call."""
    _close(call.fds)
    call.fds = ()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _encode(procedure: Procedure, result: Any) -> bytes:
    return b"" if procedure.ret is None else codec(procedure.ret).encode(result)


def _fault(procedure: Procedure, error: Exception) -> InternalError:
    log.error("fault in %s", procedure.name, exc_info=error)
    return InternalError(f"{type(error).__name__} in {procedure.name}; the daemon's log says more")


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
