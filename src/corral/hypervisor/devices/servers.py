"""Programs beside QEMU that serve one machine's devices: virtiofsd for a directory, swtpm for a TPM.

Each gets the listening socket in the run's directory that QEMU connects to, so nothing waits for anything. It ends by
itself when QEMU closes its connection; what has not is ended with the run. The list of them lies where QEMU cannot
write, beside the run's directory, so that a later daemon ends what an earlier one had started, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, HostError
from corral.host import one_client, virtiofsd
from corral.hypervisor.devices import tpm_state
from corral.qemu.process import Process

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.filesystem import Filesystem
    from corral.model.devices.tpm import TPM, EmulatorBackend

log = logging.getLogger(__name__)

#: Seconds that a server gets to end when its machine is gone, before it is killed.
END_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What to start: `socket` is the name of its socket in the run's directory, `{fd}` in `argv` its descriptor."""

    alias: str
    socket: str
    argv: tuple[str, ...]
    account: Account | None = None
    cwd: Path | None = None


def servers_of(domain: Domain, devices: Iterable[Device]) -> list[Server]:
    """The servers that devices of a live document need. HostError when the host lacks one, or what it shall serve."""
    from corral.model.devices.filesystem import Filesystem
    from corral.model.devices.tpm import TPM, EmulatorBackend

    found = []
    for device in filter(has_server, devices):
        if isinstance(device, Filesystem):
            found.append(_virtiofsd(device))
        elif isinstance(device, TPM) and isinstance(device.backend, EmulatorBackend):
            found.append(_swtpm(domain, device, device.backend))
    return found


def has_server(device: Device) -> bool:
    """Whether a program of ours beside QEMU serves it."""
    from corral.model.devices.filesystem import Filesystem
    from corral.model.devices.tpm import TPM, EmulatorBackend

    if isinstance(device, Filesystem):
        return device.is_virtiofs and device.source.socket is None
    return isinstance(device, TPM) and isinstance(device.backend, EmulatorBackend)


def _virtiofsd(device: Filesystem) -> Server:
    from corral.qemu.context import alias
    from corral.qemu.devices.filesystem import socket_of

    binary, directory = device.binary, device.source.dir or ""
    program = Path(binary.path) if binary is not None and binary.path is not None else virtiofsd.find()
    if program is None:
        raise HostError(
            "this host has no virtiofsd", hint=f"apt install {virtiofsd.PACKAGE}, or name it: <binary path=…>"
        )
    if not os.access(program, os.X_OK):
        raise HostError(f"'{program}', which shall serve virtiofs, is not a program")
    if not Path(directory).is_dir():
        raise HostError(f"'{directory}', which filesystem '{device.target.dir}' shall share, is no directory")
    if device.readonly:
        raise ConfigUnsupported("virtiofs does not yet support read-only mode")
    if "," in directory:
        raise ConfigUnsupported(f"virtiofsd cannot share '{directory}': its name has a comma")
    words = [f"source={directory}"]
    more: list[str] = []
    if binary is not None:
        words += [f"cache={binary.cache.mode}"] if binary.cache is not None else []
        words += [f"sandbox={binary.sandbox.mode}"] if binary.sandbox is not None else []
        words += ["xattr" if binary.xattr == "on" else "no_xattr"] if binary.xattr is not None else []
        for name, state in (
            ("posix_lock", binary.lock and binary.lock.posix),
            ("flock", binary.lock and binary.lock.flock),
        ):
            words += [name if state == "on" else f"no_{name}"] if state else []
        more += [f"--thread-pool-size={binary.thread_pool.size}"] if binary.thread_pool is not None else []
        more += [f"--rlimit-nofile={binary.openfiles.max}"] if binary.openfiles is not None else []
    argv = (str(program), "--fd={fd}", "-o", ",".join(words), *more)
    return Server(alias=alias(device), socket=socket_of(device), argv=argv)


def _swtpm(domain: Domain, device: TPM, backend: EmulatorBackend) -> Server:
    from corral.qemu.context import alias
    from corral.qemu.devices.tpm import socket_of

    program = shutil.which("swtpm")
    if program is None:
        raise HostError("this host has no swtpm, which emulates TPMs", hint="apt install swtpm")
    account = domain.hypervisor.account
    directory = (
        Path(backend.source.path)
        if backend.source is not None
        else tpm_state.directory(domain.hypervisor.settings, domain.uuid)
    )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
    except OSError as error:
        raise HostError(f"cannot make the TPM's directory {directory}: {error.strerror}") from error
    # In its directory and by a name of its own: the way there may be closed to the account.
    argv = [program, "socket", "--ctrl", "type=unixio,fd={fd}", "--tpmstate", "dir=.,mode=0600", "--terminate"]
    argv += ["--tpm2"] if backend.version != "1.2" else []
    return Server(alias=alias(device), socket=socket_of(device), argv=tuple(argv), account=account, cwd=directory)


async def start(domain: Domain, run: Run, servers: Iterable[Server]) -> None:
    """Start them, each waiting for QEMU on its socket; what they say is in logs of their own beside the machine's."""
    for server in servers:
        place = run.directory / server.socket
        listener = _listen(place, domain.hypervisor.account)
        try:
            process = await Process.spawn(
                [word.replace("{fd}", str(listener.fileno())) for word in server.argv],
                log=domain.hypervisor.settings.log / f"{domain.name}-{server.alias}.log",
                pass_fds=(listener.fileno(),),
                account=server.account,
                cwd=server.cwd,
            )
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        finally:
            listener.close()
        run.servers[server.alias] = process
        _note(run)


def _listen(path: Path, account: Account | None) -> socket.socket:
    """A socket that QEMU alone may connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before it has a name: what lies in that directory is QEMU's to move
        listener.bind(str(path))
        if account is not None:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def sweep(directory: Path) -> None:
    """End what still waits in the directory of a run that is over, or never came to be, for a QEMU to come."""
    for listen in directory.glob("*.sock"):
        one_client.dismiss(listen)
    _list_of(directory).unlink(missing_ok=True)


def _list_of(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.servers")


def _note(run: Run) -> None:
    """Write down who runs, for a daemon that comes after us."""
    facts = {alias: (process.pid, process.start_time) for alias, process in run.servers.items() if not process.ended}
    _list_of(run.directory).write_text(json.dumps(facts))


def _adopt(run: Run) -> None:
    """Those that an earlier daemon started."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        for alias, (pid, start) in json.loads(_list_of(run.directory).read_text()).items():
            if alias not in run.servers:
                with contextlib.suppress(HostError):
                    run.servers[alias] = Process.adopt(pid, start)


async def end(run: Run, alias: str | None = None) -> None:
    """End the servers of a run whose QEMU is gone, or that of one device which QEMU has no more; never raises."""
    _adopt(run)
    for name in [name for name in run.servers if alias in (None, name)]:
        process = run.servers.pop(name)
        process.terminate()
        try:
            await process.wait(END_TIMEOUT)
        except TimeoutError:
            process.kill()
    if alias is not None:  # one that was started and not yet written down, too
        await asyncio.to_thread(one_client.dismiss, run.directory / f"{alias}.sock")
    try:
        if run.servers:
            _note(run)
        else:
            _list_of(run.directory).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: %s", _list_of(run.directory), error)
