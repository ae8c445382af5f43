"""Directories of the host in the guest. https://libvirt.org/formatdomain.html#filesystems"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, OnOff

Mode = Annotated[str, Field(pattern=r"^[0-7]{1,4}$")]
"""Permissions as octal digits."""


class FilesystemDriver(VirtioOptions, tag="driver"):
    """`path` is 9p, served by QEMU itself; `virtiofs` has a process of its own and needs memory that is shared."""

    type: Literal["path", "virtiofs"] | None = attr(default=None)
    wrpolicy: Literal["immediate"] | None = attr(default=None)
    queue: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = attr(default=None)


class FilesystemCache(Element, tag="cache"):
    mode: Literal["none", "always"] = attr()


class FilesystemSandbox(Element, tag="sandbox"):
    mode: Literal["namespace", "chroot"] = attr()


class FilesystemLock(Element, tag="lock"):
    posix: OnOff | None = attr(default=None)
    flock: OnOff | None = attr(default=None)


class ThreadPool(Element, tag="thread_pool"):
    size: Annotated[int, Field(ge=0, le=2**31 - 1)] = attr()


class OpenFiles(Element, tag="openfiles"):
    max: Annotated[int, Field(ge=1, le=2**31 - 1)] = attr()


class FilesystemBinary(Element, tag="binary"):
    """The program that serves virtiofs, and what it is told."""

    path: str | None = attr(default=None)
    xattr: OnOff | None = attr(default=None)
    cache: FilesystemCache | None = element(default=None)
    sandbox: FilesystemSandbox | None = element(default=None)
    lock: FilesystemLock | None = element(default=None)
    thread_pool: ThreadPool | None = element(default=None)
    openfiles: OpenFiles | None = element(default=None)


class FilesystemSource(Element, tag="source"):
    """The host's directory, or the socket of a virtiofs server that somebody else runs."""

    dir: str | None = attr(default=None)
    socket: str | None = attr(default=None)


class FilesystemTarget(Element, tag="target"):
    """The name by which the guest mounts it."""

    dir: str = attr()


class Filesystem(Device, tag="filesystem"):
    """A directory of the host."""

    type: Literal["mount"] = attr(default="mount")
    accessmode: Literal["passthrough", "mapped", "squash"] | None = attr(default=None)
    multidevs: Literal["default", "remap", "forbid", "warn"] | None = attr(default=None)
    fmode: Mode | None = attr(default=None)
    dmode: Mode | None = attr(default=None)
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = attr(default=None)
    driver: FilesystemDriver | None = element(default=None)
    binary: FilesystemBinary | None = element(default=None)
    source: FilesystemSource = element()
    target: FilesystemTarget = element()
    readonly: bool = element(default=False)

    @property
    def is_virtiofs(self) -> bool:
        """Whether a process of its own serves it."""
        return self.driver is not None and self.driver.type == "virtiofs"
