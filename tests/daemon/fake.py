"""A hypervisor made of Python objects only, and a raw client: what the daemon's own tests need beside the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from corral.constants import DomainEventDefinedDetailType, DomainEventType, DomainState
from corral.daemon import handlers
from corral.daemon.server import Server, bind
from corral.errors import CorralError, NoDomain, OperationInvalid
from corral.host.interfaces import InterfaceCounters
from corral.hypervisor.events import Event, EventBus, Identity, Lifecycle
from corral.hypervisor.guest.stream import ByteStream
from corral.protocol.codec import codec
from corral.protocol.connection import Connection
from corral.protocol.events import Error, Reply
from corral.protocol.procedures import procedure


class Echo(ByteStream):
    """A console that says what it is told, until told `end`."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def read(self, limit: int = 65536) -> bytes:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        self.queue.put_nowait(b"" if data == b"end" else data)

    def close(self) -> None:
        self.closed = True
        self.queue.put_nowait(b"")


class FakeDomain:
    """A domain that starts and stops when told."""

    def __init__(self, hypervisor: FakeHypervisor, name: str) -> None:
        self.hypervisor = hypervisor
        self.name = name
        self.uuid = uuid4()
        self.id = -1
        self.persistent = True
        self.updated = False
        self.autostart = False
        self.has_managed_save = False
        self.os_type = "hvm"
        self.max_vcpus = 4
        self.max_memory = 1 << 20
        self.generation = 0
        self.asked = 0
        self.gate: asyncio.Event | None = None
        self.console = Echo()

    @property
    def active(self) -> bool:
        return self.id >= 0

    def identity(self) -> Identity:
        return Identity(self.name, self.uuid, self.id)

    def state(self) -> tuple[int, int]:
        self.asked += 1
        return (DomainState.RUNNING if self.active else DomainState.SHUTOFF), 1

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(state=self.state()[0], max_memory=1 << 20, memory=1 << 20, vcpus=2, cpu_time=77)

    def xml(self, flags: int = 0) -> str:
        return f"<domain type='kvm'><name>{self.name}</name><!-- {flags} --></domain>" + " " * self.hypervisor.padding

    def control_info(self) -> SimpleNamespace:
        return SimpleNamespace(state=0, details=0, state_time=0)

    def job_info(self) -> SimpleNamespace:
        return SimpleNamespace(type=0, operation=0, time_elapsed=0)

    async def create(self, flags: int = 0, *, owner: object | None = None) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.active:
            raise OperationInvalid("domain is already running")
        self.hypervisor.last_id += 1
        self.id = self.hypervisor.last_id
        self.generation += 1
        self.hypervisor.events.emit(Lifecycle(self.identity(), DomainEventType.STARTED, 0))

    async def destroy(self, flags: int = 0) -> None:
        self.id = -1
        self.generation += 1
        self.hypervisor.events.emit(Lifecycle(self.identity(), DomainEventType.STOPPED, 1))

    async def suspend(self) -> None:
        raise ValueError("a fault of ours")

    async def open_console(self, devname: str | None = None, flags: int = 0) -> ByteStream:
        if not self.active:
            raise OperationInvalid("domain is not running")
        return self.console

    async def screenshot(self, screen: int = 0) -> SimpleNamespace:
        return SimpleNamespace(mime="image/png", data=b"\x89PNG" * 100_000)

    def interface_counters(self, name: str) -> InterfaceCounters:
        return InterfaceCounters(received=(12, 1, 0, 0), sent=(40, 3, 0, 0))

    async def stats(self, groups: int = 0, *, nowait: bool = False) -> list[tuple[str, int, Any]]:
        return [("state.state", 1, self.state()[0]), ("net.0.name", 7, "vnet0"), ("net.0.rx.bytes", 4, 12)]


class FakeHypervisor:
    """Domains in a dictionary."""

    uri = "qemu:///session"
    hostname = "somewhere"
    version = 10_000_002

    def __init__(self) -> None:
        self.events = EventBus[Event]()
        self.all: dict[UUID, FakeDomain] = {}
        self.last_id = 0
        self.padding = 0
        self.missed_events: tuple[Event, ...] = ()
        self.owners_closed = 0

    def add(self, name: str) -> FakeDomain:
        domain = FakeDomain(self, name)
        self.all[domain.uuid] = domain
        return domain

    def domains(self, flags: int = 0) -> list[FakeDomain]:
        return [
            domain
            for domain in sorted(self.all.values(), key=lambda d: d.name)
            if not flags & 3 or (flags & 1 and domain.active) or (flags & 2 and not domain.active)
        ]

    def lookup_by_name(self, name: str) -> FakeDomain:
        for domain in self.all.values():
            if domain.name == name:
                return domain
        raise NoDomain(f"no domain with matching name '{name}'")

    def lookup_by_uuid(self, uuid: UUID) -> FakeDomain:
        if uuid not in self.all:
            raise NoDomain(f"no domain with matching uuid '{uuid}'")
        return self.all[uuid]

    def lookup_by_id(self, domain_id: int) -> FakeDomain:
        for domain in self.all.values():
            if domain.id == domain_id:
                return domain
        raise NoDomain(f"no domain with matching id {domain_id}")

    async def define(self, xml: str, flags: int = 0) -> FakeDomain:
        domain = self.add(xml)
        self.events.emit(Lifecycle(domain.identity(), DomainEventType.DEFINED, DomainEventDefinedDetailType.ADDED))
        return domain

    @property
    def generation(self) -> int:
        return len(self.all) + sum(domain.generation for domain in self.all.values())

    async def owner_closed(self, owner: object) -> None:
        self.owners_closed += 1

    def capabilities(self) -> str:
        return "<capabilities/>"

    def node_info(self) -> SimpleNamespace:
        return SimpleNamespace(
            model="x86_64", memory_kib=1 << 20, cpus=2, mhz=2000, nodes=1, sockets=1, cores=2, threads=1
        )

    def max_vcpus(self, type: str | None) -> int:
        return 255

    def free_memory(self) -> int:
        return 1 << 30


class Client:
    """Calls procedures and waits for their answers, over a socket in non-blocking mode."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection("client")
        self.events: list[Any] = []

    @classmethod
    async def connect(cls, path: Path, *, open: bool = True, flags: int = 0) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(path))
        client = cls(sock)
        if open:
            await client.call("auth_list")
            await client.call("connect_open", name="qemu:///session", flags=flags)
        return client

    async def send(self, *serials: int) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.connection.data_to_send())

    async def receive(self) -> bool:
        """Take in what comes next; False at the end of file."""
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
        self.events += self.connection.receive_data(data, time.monotonic())
        return bool(data)

    async def until(self, wanted: Callable[[Any], bool], timeout: float = 5.0) -> Any:
        """The first event that is wanted, taken out of the others."""
        async with asyncio.timeout(timeout):
            while True:
                for event in self.events:
                    if wanted(event):
                        self.events.remove(event)
                        return event
                if not await self.receive():
                    raise ConnectionError(f"the daemon closed the connection: {self.events}")

    async def call(self, name: str, /, **args: Any) -> Any:
        """One call and its answer's record; the error that came is raised."""
        called = procedure(name)
        serial = self.connection.call(called, args if called.args else None)
        await self.send()
        return await self.answer(serial)

    async def answer(self, serial: int) -> Any:
        """The answer to a call."""
        event = await self.until(lambda e: isinstance(e, Reply | Error) and e.serial == serial)
        if isinstance(event, Error):
            raise event.error
        return event.ret()

    async def error(self, name: str, /, **args: Any) -> CorralError:
        """The error that a call must end with."""
        try:
            answer = await self.call(name, **args)
        except CorralError as error:
            return error
        raise AssertionError(f"{name} succeeded: {answer}")

    async def gone(self, timeout: float = 5.0) -> None:
        """Wait until the daemon closes the connection."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                while await self.receive():
                    pass

    def close(self) -> None:
        self.sock.close()


def ref(domain: FakeDomain) -> dict[str, Any]:
    """The domain as an argument."""
    return {"name": domain.name, "uuid": domain.uuid.bytes, "id": domain.id}


def packet(name: str, serial: int, args: dict[str, Any] | None = None) -> bytes:
    """A call's bytes."""
    called = procedure(name)
    body = codec(called.args).encode(args) if called.args else b""
    connection = Connection("client")
    connection.call(called, args if called.args else None)
    data = connection.data_to_send()
    assert data.endswith(body)
    return data[:20] + serial.to_bytes(4, "big") + data[24:]


@contextlib.asynccontextmanager
async def daemon(hypervisor: FakeHypervisor, **options: Any) -> AsyncIterator[tuple[Server, Path]]:
    """A server on a socket of its own, read-only one beside it."""
    handlers.load()
    with tempfile.TemporaryDirectory(prefix="cd") as directory:
        path = Path(directory) / "s"
        server = Server(hypervisor, asyncio.get_running_loop(), **options)  # type: ignore[arg-type]
        server.listen(bind(path, mode=0o600), readonly=False)
        server.listen(bind(path.with_name("s-ro"), mode=0o600), readonly=True)
        try:
            yield server, path
        finally:
            await server.close()


def open_descriptors() -> int:
    """How many descriptors this process has open, without those of what nothing refers to any more."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))
