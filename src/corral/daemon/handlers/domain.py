"""Questions about one domain, answered from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import (
    DomainGetJobStatsFlags,
    DomainJobType,
    DomainModificationImpact,
    DomainXMLFlags,
    TypedParameterType,
)
from corral.daemon.dispatch import finds, on_domain
from corral.errors import OperationInvalid, OperationUnsupported

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
XML_FLAGS = DomainXMLFlags.SECURE | DomainXMLFlags.INACTIVE | DomainXMLFlags.UPDATE_CPU | DomainXMLFlags.MIGRATABLE


@finds("domain_lookup_by_name", cached=True)
def lookup_by_name(session: Session, args: Any) -> Domain:
    """The domain of that name."""
    return session.hypervisor.lookup_by_name(args.name)


@finds("domain_lookup_by_uuid", cached=True)
def lookup_by_uuid(session: Session, args: Any) -> Domain:
    """The domain of that UUID."""
    return session.hypervisor.lookup_by_uuid(UUID(bytes=args.uuid))


@finds("domain_lookup_by_id", cached=True)
def lookup_by_id(session: Session, args: Any) -> Domain:
    """The running domain of that id."""
    return session.hypervisor.lookup_by_id(args.id)


@on_domain("domain_get_state", cached=True)
def get_state(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """State and reason."""
    state, reason = domain.state()
    return {"state": state, "reason": reason}


@on_domain("domain_get_info")
def get_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """State, memory, vCPUs and CPU time."""
    info = domain.info()
    return {
        "state": info.state,
        "maxMem": info.max_memory,
        "memory": info.memory,
        "nrVirtCpu": info.vcpus,
        "cpuTime": info.cpu_time,
    }


@on_domain("domain_get_xml_desc", flags=XML_FLAGS, cached=True)
def get_xml_desc(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The document."""
    return {"xml": domain.xml(args.flags)}


@on_domain("domain_get_autostart", cached=True)
def get_autostart(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether the domain starts with the daemon."""
    return {"autostart": int(domain.autostart)}


@on_domain("domain_get_max_memory", cached=True)
def get_max_memory(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """KiB."""
    return {"memory": domain.max_memory}


@on_domain("domain_get_max_vcpus", cached=True)
def get_max_vcpus(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The most vCPUs that a running domain can get; libvirt answers this for running domains only."""
    _require_active(domain)
    return {"num": domain.max_vcpus}


@on_domain("domain_get_os_type", cached=True)
def get_os_type(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """`hvm`."""
    return {"type": domain.os_type}


@on_domain("domain_is_active", cached=True)
def is_active(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether it runs, or is paused."""
    return {"active": int(domain.active)}


@on_domain("domain_is_persistent", cached=True)
def is_persistent(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether it is defined."""
    return {"persistent": int(domain.persistent)}


@on_domain("domain_is_updated", cached=True)
def is_updated(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether its definition differs from what runs."""
    return {"updated": int(domain.updated)}


@on_domain("domain_has_managed_save_image", cached=True)
def has_managed_save_image(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether its state lies on disk."""
    return {"result": int(domain.has_managed_save)}


@on_domain("domain_get_control_info")
def get_control_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Whether its monitor is at our command."""
    info = domain.control_info()
    return {"state": info.state, "details": info.details, "stateTime": info.state_time}


#: Members of remote_domain_get_job_info_ret that only a migration or a save could fill.
NO_PROGRESS = (
    "timeRemaining",
    "dataTotal",
    "dataProcessed",
    "dataRemaining",
    "memTotal",
    "memProcessed",
    "memRemaining",
    "fileTotal",
    "fileProcessed",
    "fileRemaining",
)


@on_domain("domain_get_job_info")
def get_job_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The job that runs on it."""
    job = domain.job_info()
    return {"type": job.type, "timeElapsed": job.time_elapsed, **dict.fromkeys(NO_PROGRESS, 0)}


@on_domain("domain_get_job_stats", flags=DomainGetJobStatsFlags.COMPLETED | DomainGetJobStatsFlags.KEEP_COMPLETED)
def get_job_stats(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The job that runs on it, as parameters; of completed jobs none is kept."""
    if args.flags & DomainGetJobStatsFlags.COMPLETED:
        return {"type": DomainJobType.NONE, "params": []}
    job = domain.job_info()
    if job.type == DomainJobType.NONE:
        return {"type": job.type, "params": []}
    params = [
        {"field": "operation", "value": (TypedParameterType.INT, job.operation)},
        {"field": "time_elapsed", "value": (TypedParameterType.ULLONG, job.time_elapsed)},
    ]
    return {"type": job.type, "params": params}


@on_domain("domain_abort_job")
def abort_job(session: Session, domain: Domain, args: Any) -> None:
    """The jobs that there are take moments, and none can be given up half done."""
    if domain.job_info().type == DomainJobType.NONE:
        raise OperationInvalid("no job is active on the domain")
    raise OperationUnsupported("the job that runs on the domain cannot be aborted")


@on_domain("domain_abort_job_flags")
def abort_job_flags(session: Session, domain: Domain, args: Any) -> None:
    """The same; no flag can be honoured."""
    abort_job(session, domain, args)


@on_domain("domain_get_metadata", flags=IMPACT, cached=True)
def get_metadata(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Title, description, or the metadata element of a namespace."""
    return {"metadata": domain.metadata(args.type, args.uri, args.flags)}


def _require_active(domain: Domain) -> None:
    if not domain.active:
        raise OperationInvalid("domain is not running")
