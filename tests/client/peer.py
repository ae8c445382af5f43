"""A daemon made of a dictionary: answers what a test tells it to, over a real socket, by the protocol's server side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from corral.constants import DomainEventType, DomainShutoffReason, DomainState
from corral.errors import (
    AgentCommandFailed,
    AgentUnresponsive,
    CorralError,
    DomainExists,
    NoDomain,
    NoSupport,
    OperationInvalid,
    XMLError,
)
from corral.protocol import events
from corral.protocol.connection import Connection
from corral.protocol.procedures import procedure

LATER = object()  # an answer that the test gives itself
Answer = Callable[["Session", Any], Any]

AGENT_COMMANDS: dict[str, Any] = {
    "guest-ping": {},
    "guest-exec": {"pid": 7},
    "guest-exec-status": {"exited": True, "exitcode": 3, "out-data": "b3V0Cg==", "err-data": "ZXJyCg=="},
    "guest-file-open": AgentCommandFailed("No such file or directory"),
    "guest-network-get-interfaces": [
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
        {"name": "eth0", "ip-addresses": [{"ip-address": "fe80::1"}, {"ip-address": "10.0.2.15"}]},
    ],
}


class Session(asyncio.Protocol):
    """One client of the peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.wire = Connection("server")
        self.transport: asyncio.Transport | None = None
        self.calls: list[events.Call] = []
        self.current: events.Call | None = None
        self.callbacks: list[int] = []
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer.sessions.append(self)

    def data_received(self, data: bytes) -> None:
        for event in self.wire.receive_data(data, asyncio.get_running_loop().time()):
            if isinstance(event, events.Call):
                self.calls.append(event)
                self.answer(event)
            elif isinstance(event, events.StreamData):
                self.received += event.data
                self.peer.on_stream(self, event)
            elif isinstance(event, events.StreamEnd):
                with contextlib.suppress(CorralError):
                    self.wire.send_stream_end(event.serial, event.procedure)
        self.flush()

    def answer(self, call: events.Call) -> None:
        self.current = call
        try:
            answer = self.peer.answers.get(call.procedure.name)
            if answer is None:
                raise NoSupport(call.procedure.name)
            result = answer(self, call.args())
        except CorralError as error:
            self.wire.send_error(call.serial, call.procedure, error)
            return
        if result is not LATER:
            self.wire.send_reply(call.serial, call.procedure, result)

    def event(self, name: str, **fields: Any) -> None:
        self.wire.send_event(procedure(name), fields)
        self.flush()

    def flush(self) -> None:
        if self.transport and (data := self.wire.data_to_send()):
            self.transport.write(data)

    def connection_lost(self, cause: Exception | None) -> None:
        self.peer.lost += 1


#: A host of one processor and 64 GiB, as NODE_GET_INFO tells it.
NODE = dict.fromkeys(("cpus", "nodes", "sockets", "cores", "threads"), 1) | {"model": "x", "mhz": 0, "memory": 64 << 20}


class Peer:
    """The daemon: `answers` by procedure name, and a handful of domains that start and stop."""

    def __init__(self, *domains: str) -> None:
        self.sessions: list[Session] = []
        self.lost = 0
        self.domains: dict[str, dict[str, Any]] = {}
        self.on_stream: Callable[[Session, events.StreamData], None] = lambda session, event: None
        self.agent: dict[str, Any] = dict(AGENT_COMMANDS)
        self.agent_calls: list[dict[str, Any]] = []
        self.agent_connected = True
        self.deaf = False  # guests ignore their power button
        self.log = "qemu: one\nqemu: two\n"
        self.next_id = 1
        for name in domains:
            self.add(name)
        self.answers: dict[str, Answer] = {
            "auth_list": lambda session, args: {"types": [0]},
            "connect_supports_feature": lambda session, args: {"supported": 1},
            "connect_open": lambda session, args: None,
            "connect_close": lambda session, args: None,
            "connect_get_type": lambda session, args: {"type": "QEMU"},
            "connect_get_lib_version": lambda session, args: {"lib_ver": 11003000},
            "connect_get_version": lambda session, args: {"hv_ver": 10000002},
            "connect_get_capabilities": lambda session, args: {"capabilities": CAPABILITIES},
            "connect_list_all_domains": self._list,
            "connect_domain_event_callback_register_any": self._register,
            "connect_domain_event_callback_deregister_any": lambda session, args: None,
            "domain_lookup_by_name": lambda session, args: {"dom": self.reference(self.find(args.name))},
            "domain_lookup_by_uuid": self._by_uuid,
            "domain_lookup_by_id": self._by_id,
            "domain_get_state": lambda session, args: self._of(args, lambda domain: domain["state_reason"]),
            "domain_get_info": lambda session, args: self._of(args, self._info),
            "domain_get_xml_desc": lambda session, args: self._of(args, lambda domain: {"xml": domain["xml"]}),
            "domain_is_active": lambda session, args: self._of(args, lambda domain: {"active": int(domain["id"] > 0)}),
            "domain_is_persistent": lambda session, args: self._of(args, lambda domain: {"persistent": 1}),
            "domain_define_xml_flags": self._define,
            "domain_create_with_flags": lambda session, args: self._of(args, self._start),
            "domain_create_xml": self._create,
            "domain_destroy_flags": lambda session, args: self._of(args, self._stop),
            "domain_shutdown": lambda session, args: self._of(args, self._shutdown),
            "domain_reboot": lambda session, args: self._of(args, self._reboot),
            "domain_suspend": lambda session, args: self._of(args, self._suspend),
            "domain_resume": lambda session, args: self._of(args, self._resume),
            "domain_undefine_flags": lambda session, args: self.domains.pop(self.find(args.dom.name)["name"]) and None,
            "node_get_info": lambda session, args: NODE,
            "domain_rename": lambda session, args: self._of(args, lambda domain: self._rename(domain, args.new_name)),
            "domain_open_console": lambda session, args: self._of(args, self._console),
            "qemu.domain_agent_command": self._agent,
            "corral.logs": lambda session, args: {"text": self.log},
            "corral.host_report": lambda session, args: {
                "json": json.dumps(
                    {"rows": [{"name": "KVM", "ok": False, "text": "slow", "hint": "use TCG"}], "images": "/images"}
                )
            },
        }

    def add(self, name: str, *, running: bool = False) -> dict[str, Any]:
        domain = {
            "name": name,
            "uuid": uuid5(UUID(int=0), name).bytes,
            "id": -1,
            "xml": XML.format(name=name),
            "state_reason": {"state": DomainState.SHUTOFF, "reason": DomainShutoffReason.UNKNOWN},
        }
        self.domains[name] = domain
        if running:
            self._start(domain)
        return domain

    def find(self, name: str) -> dict[str, Any]:
        if name not in self.domains:
            raise NoDomain(f"no domain with matching name '{name}'")
        return self.domains[name]

    @staticmethod
    def reference(domain: dict[str, Any]) -> dict[str, Any]:
        return {key: domain[key] for key in ("name", "uuid", "id")}

    def _of(self, args: Any, act: Callable[[dict[str, Any]], Any]) -> Any:
        return act(self.find(args.dom.name))

    def _list(self, session: Session, args: Any) -> Any:
        domains = [self.reference(domain) for domain in self.domains.values()]
        return {"domains": domains, "ret": len(domains)}

    def _by_uuid(self, session: Session, args: Any) -> Any:
        for domain in self.domains.values():
            if domain["uuid"] == args.uuid:
                return {"dom": self.reference(domain)}
        raise NoDomain("no domain with matching uuid")

    def _by_id(self, session: Session, args: Any) -> Any:
        for domain in self.domains.values():
            if domain["id"] == args.id:
                return {"dom": self.reference(domain)}
        raise NoDomain(f"no domain with matching id {args.id}")

    def _info(self, domain: dict[str, Any]) -> Any:
        state = domain["state_reason"]["state"]
        return {"state": state, "maxMem": 1 << 20, "memory": 524288, "nrVirtCpu": 2, "cpuTime": 1_500_000_000}

    def _register(self, session: Session, args: Any) -> Any:
        session.callbacks.append(args.eventID)
        return {"callbackID": args.eventID + 100}

    def lifecycle(self, domain: dict[str, Any], event: int, detail: int = 0) -> None:
        for session in self.sessions:
            if 0 in session.callbacks:
                msg = {"dom": self.reference(domain), "event": event, "detail": detail}
                session.event("domain_event_callback_lifecycle", callbackID=100, msg=msg)

    def _define(self, session: Session, args: Any) -> Any:
        name = _name(args.xml)
        if name in self.domains and "<uuid>" not in args.xml:
            raise DomainExists(f"domain '{name}' already exists with uuid 1")
        domain = self.domains.get(name) or self.add(name)
        domain["xml"] = args.xml
        return {"dom": self.reference(domain)}

    def _create(self, session: Session, args: Any) -> Any:
        if self.domains.get(_name(args.xml_desc), {"id": -1})["id"] > 0:
            raise OperationInvalid(f"domain '{_name(args.xml_desc)}' is already active")
        return self._start(self.add(_name(args.xml_desc)))

    def _start(self, domain: dict[str, Any]) -> Any:
        if domain["id"] > 0:
            raise OperationInvalid("domain is already running")
        domain["id"], self.next_id = self.next_id, self.next_id + 1
        domain["state_reason"] = {"state": DomainState.RUNNING, "reason": 1}
        self.lifecycle(domain, DomainEventType.STARTED)
        return {"dom": self.reference(domain)}

    def _stop(self, domain: dict[str, Any]) -> None:
        if domain["id"] < 0:
            raise OperationInvalid("domain is not running")
        domain["id"] = -1
        domain["state_reason"] = {"state": DomainState.SHUTOFF, "reason": DomainShutoffReason.DESTROYED}
        self.lifecycle(domain, DomainEventType.STOPPED, 1)

    def _shutdown(self, domain: dict[str, Any]) -> None:
        if domain["id"] < 0:
            raise OperationInvalid("domain is not running")
        if not self.deaf:
            asyncio.get_running_loop().call_later(0.05, self._stop, domain)

    def _reboot(self, domain: dict[str, Any]) -> None:
        if self.deaf:
            return
        for session in self.sessions:
            if 1 in session.callbacks:
                session.event("domain_event_callback_reboot", callbackID=101, msg={"dom": self.reference(domain)})

    def _suspend(self, domain: dict[str, Any]) -> None:
        if domain["id"] < 0:
            raise OperationInvalid("domain is not running")
        domain["state_reason"] = {"state": DomainState.PAUSED, "reason": 1}

    def _resume(self, domain: dict[str, Any]) -> None:
        if domain["state_reason"]["state"] == DomainState.RUNNING:
            raise OperationInvalid("domain is already running")
        domain["state_reason"] = {"state": DomainState.RUNNING, "reason": 5}

    def _rename(self, domain: dict[str, Any], name: str) -> Any:
        self.domains[name] = {**self.domains.pop(domain["name"]), "name": name}
        return {"retcode": 0}

    def _console(self, domain: dict[str, Any]) -> None:
        if domain["id"] < 0:
            raise OperationInvalid("domain is not running")

    def _agent(self, session: Session, args: Any) -> Any:
        command = json.loads(args.cmd)
        self.agent_calls.append(command)
        if not self.agent_connected:
            raise AgentUnresponsive("QEMU guest agent is not connected")
        answer = self.agent[command["execute"]]
        if isinstance(answer, CorralError):
            raise answer
        return {"result": json.dumps({"return": answer})}


def _name(xml: str) -> str:
    if "<name>" not in xml:
        raise XMLError("missing element name")
    return xml.split("<name>")[1].split("</name>")[0]


XML = "<domain type='qemu'>\n  <name>{name}</name>\n  <memory unit='KiB'>1048576</memory>\n</domain>\n"
CAPABILITIES = (
    "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>"
    "<guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/></arch></guest>"
    "<guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch></guest></capabilities>"
)


@contextlib.asynccontextmanager
async def serving(peer: Peer, path: Path) -> AsyncIterator[str]:
    """Serve at `path` in this loop; gives the URI."""
    server = await asyncio.get_running_loop().create_unix_server(lambda: Session(peer), str(path))
    try:
        yield f"corral+unix:///session?socket={path}"
    finally:
        server.close()
        for session in peer.sessions:
            if session.transport:
                session.transport.close()


@contextlib.contextmanager
def serving_thread(peer: Peer, path: Path) -> Iterator[str]:
    """Serve at `path` in a thread, for tests that call the program."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()
    uri = ""

    async def body() -> None:
        nonlocal uri
        async with serving(peer, path) as uri:
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(body(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield uri
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
