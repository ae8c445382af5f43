"""Corral's errors: one tree, each class with libvirt's error code and domain.

The text follows libvirt's convention "<what kind>: <what exactly>", because clients match on the kind
("Domain not found", "Guest agent is not responding"). Front ends turn an error into a wire error, an HTTP problem
document, or one line and an exit status. Codes: virterror.h of libvirt 11.3.
"""

from __future__ import annotations

from corral.constants import ErrorDomain, ErrorNumber

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class CorralError(Exception):
    """Anything that went wrong in a way a person can act on.

    `code` is a virErrorNumber, `domain` a virErrorDomain, `hint` one sentence on what to do next (or None).
    `str(error)` is the full text for a person, `error.detail` the part after the kind.
    """

    code: ClassVar[int] = ErrorNumber.INTERNAL_ERROR
    kind: ClassVar[str] = "internal error"
    domain: int = ErrorDomain.QEMU

    def __init__(self, detail: str = "", *, hint: str | None = None, domain: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        if domain is not None:
            self.domain = domain

    def __str__(self) -> str:
        text = f"{self.kind}: {self.detail}" if self.kind and self.detail else self.kind or self.detail
        return f"{text}; {self.hint}" if self.hint else text


class InternalError(CorralError):
    """A fault of Corral's own or of a program it steers."""


class NoSupport(CorralError):
    """The daemon has no such function, or this driver does not offer it."""

    code = ErrorNumber.NO_SUPPORT
    kind = "this function is not supported by the connection driver"


class NoConnect(CorralError):
    """No daemon answers at the address."""

    code = ErrorNumber.NO_CONNECT
    kind = "no connection driver available"
    domain = ErrorDomain.REMOTE


class InvalidConnection(CorralError):
    """The connection is not open, or is no longer usable."""

    code = ErrorNumber.INVALID_CONN
    kind = "invalid connection pointer in"
    domain = ErrorDomain.REMOTE


class InvalidArgument(CorralError):
    """An argument is out of its range or contradicts another."""

    code = ErrorNumber.INVALID_ARG
    kind = "invalid argument"


class OperationFailed(CorralError):
    """The operation was tried and did not happen."""

    code = ErrorNumber.OPERATION_FAILED
    kind = "operation failed"


class OperationDenied(CorralError):
    """The connection is read-only or the caller lacks the right."""

    code = ErrorNumber.OPERATION_DENIED
    kind = "operation forbidden"


class OperationInvalid(CorralError):
    """The operation does not fit the state the object is in."""

    code = ErrorNumber.OPERATION_INVALID
    kind = "Requested operation is not valid"


class OperationTimeout(CorralError):
    """The deadline passed: a lock, a monitor or a guest did not answer in time."""

    code = ErrorNumber.OPERATION_TIMEOUT
    kind = "Timed out during operation"


class OperationAborted(CorralError):
    """The operation was cancelled."""

    code = ErrorNumber.OPERATION_ABORTED
    kind = "operation aborted"


class OperationUnsupported(CorralError):
    """The operation cannot be done in this configuration."""

    code = ErrorNumber.OPERATION_UNSUPPORTED
    kind = "Operation not supported"


class NoDomain(CorralError):
    """No domain has that name, UUID or id."""

    code = ErrorNumber.NO_DOMAIN
    kind = "Domain not found"


class DomainExists(OperationFailed):
    """A domain with that name or UUID exists already (libvirt reports it as OPERATION_FAILED)."""


class NoDomainMetadata(CorralError):
    """The domain has no metadata of that kind."""

    code = ErrorNumber.NO_DOMAIN_METADATA
    kind = "metadata not found"


class NoDomainSnapshot(CorralError):
    """No snapshot of the domain has that name."""

    code = ErrorNumber.NO_DOMAIN_SNAPSHOT
    kind = "Domain snapshot not found"
    domain = ErrorDomain.DOMAIN_SNAPSHOT


class NoNetwork(CorralError):
    """No network has that name or UUID."""

    code = ErrorNumber.NO_NETWORK
    kind = "Network not found"
    domain = ErrorDomain.NETWORK


class NoStoragePool(CorralError):
    """No storage pool has that name or UUID."""

    code = ErrorNumber.NO_STORAGE_POOL
    kind = "Storage pool not found"
    domain = ErrorDomain.STORAGE


class NoStorageVolume(CorralError):
    """No storage volume has that name, key or path."""

    code = ErrorNumber.NO_STORAGE_VOL
    kind = "Storage volume not found"
    domain = ErrorDomain.STORAGE


class NumberTooLarge(CorralError):
    """A number does not fit where it belongs."""

    code = ErrorNumber.OVERFLOW
    kind = "numerical overflow"


class StorageVolumeExists(CorralError):
    """The pool has a volume of that name."""

    code = ErrorNumber.STORAGE_VOL_EXIST
    kind = ""
    domain = ErrorDomain.STORAGE


class NoNodeDevice(CorralError):
    """The host has no such device."""

    code = ErrorNumber.NO_NODE_DEVICE
    kind = "Node device not found"
    domain = ErrorDomain.NODEDEV


class NoSecret(CorralError):
    """No secret has that UUID or usage."""

    code = ErrorNumber.NO_SECRET
    kind = "Secret not found"
    domain = ErrorDomain.SECRET


class XMLError(CorralError):
    """A document is not well-formed, or says something it may not; the text names path and line."""

    code = ErrorNumber.XML_ERROR
    kind = "XML error"
    domain = ErrorDomain.DOMAIN


class XMLDetail(CorralError):
    """A document says something that it may not, in words that libvirt gives without a preface."""

    code = ErrorNumber.XML_DETAIL
    kind = ""
    domain = ErrorDomain.DOMAIN


class XMLSyntaxError(XMLError):
    """A document is not well-formed XML; the text names the line."""

    code = ErrorNumber.XML_DETAIL
    kind = ""
    domain = ErrorDomain.DOMAIN


class NameMissing(XMLError):
    """A document that names its object has no name."""

    code = ErrorNumber.NO_NAME
    kind = "missing name information"
    domain = ErrorDomain.DOMAIN


class XMLSchemaInvalid(CorralError):
    """A document does not validate against libvirt's published schema."""

    code = ErrorNumber.XML_INVALID_SCHEMA
    kind = "XML document failed to validate against schema"
    domain = ErrorDomain.DOMAIN


class ConfigUnsupported(CorralError):
    """The document asks for what this host, QEMU or Corral does not have."""

    code = ErrorNumber.CONFIG_UNSUPPORTED
    kind = "unsupported configuration"


class ArgumentUnsupported(CorralError):
    """A flag or parameter that this procedure does not honour."""

    code = ErrorNumber.ARGUMENT_UNSUPPORTED
    kind = "argument unsupported"


class HostError(CorralError):
    """The operating system refused; the text ends with its reason."""

    code = ErrorNumber.SYSTEM_ERROR
    kind = ""


class RPCError(CorralError):
    """Bytes on the wire that are not libvirt's protocol, or too many of them."""

    code = ErrorNumber.RPC
    kind = ""
    domain = ErrorDomain.RPC


class AuthFailed(CorralError):
    """The client did not prove who it is."""

    code = ErrorNumber.AUTH_FAILED
    kind = "authentication failed"
    domain = ErrorDomain.RPC


class AgentUnresponsive(CorralError):
    """The guest agent is not connected or did not answer in time."""

    code = ErrorNumber.AGENT_UNRESPONSIVE
    kind = "Guest agent is not responding"


class AgentCommandFailed(CorralError):
    """The guest agent answered with an error."""

    code = ErrorNumber.AGENT_COMMAND_FAILED
    kind = "guest agent command failed"


class AgentCommandTimeout(CorralError):
    """The guest agent did not answer the command in time."""

    code = ErrorNumber.AGENT_COMMAND_TIMEOUT
    kind = "guest agent command timed out"


class ResourceBusy(CorralError):
    """Something else holds it: an image, a port, a device."""

    code = ErrorNumber.RESOURCE_BUSY
    kind = "resource busy"


class AccessDenied(CorralError):
    """The permissions table refuses the caller."""

    code = ErrorNumber.ACCESS_DENIED
    kind = "access denied"
    domain = ErrorDomain.ACCESS


class DeviceMissing(CorralError):
    """The domain has no such device."""

    code = ErrorNumber.DEVICE_MISSING
    kind = "device not found"


class CPUIncompatible(CorralError):
    """The host or hypervisor cannot give the guest this CPU."""

    code = ErrorNumber.CPU_INCOMPATIBLE
    kind = "the CPU is incompatible with host CPU"
    domain = ErrorDomain.CPU


class InvalidStream(CorralError):
    """The stream is closed, or was never opened."""

    code = ErrorNumber.INVALID_STREAM
    kind = "invalid stream pointer"
    domain = ErrorDomain.STREAMS


class StoreDamaged(OperationFailed):
    """The state store cannot be read or was written by a newer Corral; nothing was changed."""


def _leaves(root: type[CorralError]) -> list[type[CorralError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _leaves(child))]


def from_wire(code: int, domain: int, message: str) -> CorralError:
    """The error that a daemon reported, as the most general class with that code; `str()` gives its text unchanged."""
    for error_class in _leaves(CorralError):
        if error_class.code == code and (error_class is not CorralError):
            break
    else:
        error_class = CorralError
    detail = message.removeprefix(error_class.kind + ": ") if error_class.kind else message
    error = error_class(detail, domain=domain)
    if str(error) != message:
        error = _Verbatim.of(error_class)(message, domain=domain)
    error.code = code  # type: ignore[misc]
    return error


class _Verbatim:
    """Subclasses whose text is exactly what the peer sent, whatever its convention."""

    _made: ClassVar[dict[type[CorralError], type[CorralError]]] = {}

    @classmethod
    def of(cls, error_class: type[CorralError]) -> type[CorralError]:
        if error_class not in cls._made:
            fields = {"kind": "", "__module__": error_class.__module__}
            cls._made[error_class] = type(error_class.__name__, (error_class,), fields)
        return cls._made[error_class]
