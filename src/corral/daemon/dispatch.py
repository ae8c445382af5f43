"""From a procedure to its handler: the decorators that register handlers and the routes that they make.

A handler takes the session and the decoded arguments and returns what the reply's struct holds (a mapping, or None
where the procedure returns nothing). A plain function is a query and is answered at once; a coroutine function is a
change, or a question to a guest, and is answered when it is done. Flags that a handler does not name are refused
before it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from corral.daemon.permissions import Check, api_name, readonly_check
from corral.errors import InvalidArgument, NoDomain, NoSupport
from corral.protocol.procedures import Procedure, procedure

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

Function = TypeVar("Function", bound=Callable[..., Any])


class UnsupportedFlags(InvalidArgument):
    """Flags that the procedure does not honour; libvirt's text has no kind before it."""

    kind = ""


class Result(Enum):
    """What a handler gives back."""

    RECORD = "the reply's members, or None"
    DOMAIN = "a domain, to be sent as the member `dom`"
    STREAM = "the reply's members or None, and the bytes that follow: (record, ByteStream)"
    DESCRIPTORS = "the reply's members or None, and descriptors that go with it and are ours to close: (record, [fd])"


class Route:
    """One procedure's handler and everything that is checked around it."""

    __slots__ = (
        "api",
        "asynchronous",
        "cached",
        "flags",
        "function",
        "on_domain",
        "procedure",
        "readonly",
        "result",
        "takes_fds",
    )

    def __init__(
        self,
        procedure: Procedure,
        function: Callable[..., Any],
        flags: int,
        on_domain: bool,
        cached: bool,
        result: Result,
        takes_fds: bool = False,
    ) -> None:
        self.procedure = procedure
        self.function = function
        self.flags = flags
        self.on_domain = on_domain
        self.cached = cached
        self.result = result
        self.takes_fds = takes_fds
        self.asynchronous = inspect.iscoroutinefunction(function)
        self.readonly: Check | None = readonly_check(procedure)
        self.api = api_name(procedure.name)

    def check(self, args: Any, readonly: bool) -> None:
        """Raise OperationDenied or UnsupportedFlags for arguments that this connection may not pass."""
        if readonly and self.readonly is not None:
            self.readonly(args)
        if args is not None:
            unknown = getattr(args, "flags", 0) & ~self.flags
            if unknown:
                raise UnsupportedFlags(f"unsupported flags (0x{unknown:x}) in function {self.api}")

    def run(self, session: Session, domain: Domain | None, args: Any, fds: Sequence[int] = ()) -> Any:
        """Run the handler: its result, or a coroutine for it."""
        if self.takes_fds:
            return self.function(session, domain, args, fds)
        return self.function(session, domain, args) if self.on_domain else self.function(session, args)


#: Every procedure that has a handler.
ROUTES: dict[Procedure, Route] = {}


def _register(
    name: str, flags: int, *, on_domain: bool, cached: bool, result: Result, takes_fds: bool = False
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        called = procedure(name)
        if called in ROUTES:
            raise ValueError(f"{name} has two handlers")
        ROUTES[called] = Route(called, function, flags, on_domain, cached, result, takes_fds)
        return function

    return register


def handler(name: str, flags: int = 0, *, cached: bool = False) -> Callable[[Function], Function]:
    """Register `function(session, args) -> record` for a procedure; `flags` are all those it honours.

    `cached` answers are kept encoded until the hypervisor's generation changes, that is until any domain does.
    """
    return _register(name, flags, on_domain=False, cached=cached, result=Result.RECORD)


def on_domain(name: str, flags: int = 0, *, cached: bool = False) -> Callable[[Function], Function]:
    """Register `function(session, domain, args) -> record`; the domain is looked up by its UUID beforehand.

    `cached` answers are kept encoded until the domain's generation changes: only for what its generation covers.
    """
    return _register(name, flags, on_domain=True, cached=cached, result=Result.RECORD)


def takes_fds(name: str, flags: int = 0) -> Callable[[Function], Function]:
    """Register `async function(session, domain, args, fds) -> record`; the descriptors are closed when it returns."""
    return _register(name, flags, on_domain=True, cached=False, result=Result.RECORD, takes_fds=True)


def gives_fds(name: str, flags: int = 0) -> Callable[[Function], Function]:
    """Register `async function(session, domain, args) -> (record, fds)`; the session sends and closes them."""
    return _register(name, flags, on_domain=True, cached=False, result=Result.DESCRIPTORS)


def finds(name: str, flags: int = 0, *, cached: bool = False) -> Callable[[Function], Function]:
    """Register `function(session, args) -> Domain`; the domain's name, UUID and id are the reply."""
    return _register(name, flags, on_domain=False, cached=cached, result=Result.DOMAIN)


def streams(name: str, flags: int = 0) -> Callable[[Function], Function]:
    """Register `async function(session, domain, args) -> (record, ByteStream)`: the reply, then a stream of bytes."""
    return _register(name, flags, on_domain=True, cached=False, result=Result.STREAM)


def transfers(name: str, flags: int = 0) -> Callable[[Function], Function]:
    """Register `async function(session, args) -> (record, ByteStream)`: the same for what is no domain's."""
    return _register(name, flags, on_domain=False, cached=False, result=Result.STREAM)


def route_of(called: Procedure) -> Route:
    """The procedure's route; raises NoSupport where there is none."""
    route = ROUTES.get(called)
    if route is None:
        raise NoSupport(api_name(called.name))
    return route


def domain_of(session: Session, reference: Any) -> Domain:
    """The domain that a client refers to: by UUID alone, as libvirt does."""
    uuid = UUID(bytes=reference.uuid)
    try:
        return session.hypervisor.lookup_by_uuid(uuid)
    except NoDomain:
        raise NoDomain(f"no domain with matching uuid '{uuid}' ({reference.name})") from None


def reference(domain: Domain) -> Mapping[str, Any]:
    """A domain as the wire names it: struct remote_nonnull_domain."""
    return {"name": domain.name, "uuid": domain.uuid.bytes, "id": domain.id}
