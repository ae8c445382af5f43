"""Where one daemon keeps what it keeps, and the few choices its administrator has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corral.runtime import runtime_dir

SYSTEM_URI = "qemu:///system"
SESSION_URI = "qemu:///session"


@dataclass(frozen=True, slots=True)
class Displays:
    """How machines' displays are served unless a document says it.

    `ports` are those that are chosen automatically; `listen` the address. `certificates`: the directory of
    ca-cert.pem, server-cert.pem and server-key.pem (None: `certificates` in `state`); where they
    are, SPICE has a TLS port. `vnc_tls`: whether VNC clients must use TLS, and show a certificate of that CA (verify).
    """

    ports: range = range(5900, 65536)
    listen: str = "127.0.0.1"
    certificates: Path | None = None
    vnc_tls: Literal["off", "on", "verify"] = "off"


@dataclass(frozen=True, slots=True)
class Settings:
    """The directories and choices of one daemon.

    `state` outlives a boot (definitions, NVRAM), `run` holds sockets, `cache` may be deleted at any time, `log` has one
    file a domain. `qemu_user` is the account QEMU runs as (None: the system daemon looks for one, as
    `corral.host.account` says; a user's daemon is that user's). `allow_slow_kvm` offers type `kvm` even where it is
    software emulation in disguise; `emulator` overrides the search for a QEMU binary. A `temporary` daemon leaves when
    it is idle, and makes way for one that is not.
    """

    state: Path
    run: Path
    cache: Path
    log: Path
    session: bool
    uri: str
    qemu_user: str | None = None
    allow_slow_kvm: bool = False
    emulator: Path | None = None
    displays: Displays = Displays()
    temporary: bool = False

    @classmethod
    def under(
        cls,
        directory: Path,
        *,
        session: bool | None = None,
        qemu_user: str | None = None,
        allow_slow_kvm: bool = False,
        emulator: Path | None = None,
        displays: Displays = Displays(),
    ) -> Settings:
        """Everything under one directory, as `corral daemon --state DIR` keeps it; the URI follows who we are."""
        root = directory.absolute()
        session = os.geteuid() != 0 if session is None else session
        return cls(
            state=root,
            run=root / "run",
            cache=root / "cache",
            log=root / "log",
            session=session,
            uri=SESSION_URI if session else SYSTEM_URI,
            qemu_user=qemu_user,
            allow_slow_kvm=allow_slow_kvm,
            emulator=emulator,
            displays=displays,
        )

    @classmethod
    def system(
        cls,
        *,
        qemu_user: str | None = None,
        allow_slow_kvm: bool = False,
        emulator: Path | None = None,
        displays: Displays = Displays(),
    ) -> Settings:
        """The system daemon's directories (Filesystem Hierarchy Standard)."""
        return cls(
            state=Path("/var/lib/corral"),
            run=Path("/run/corral"),
            cache=Path("/var/cache/corral"),
            log=Path("/var/log/corral"),
            session=False,
            uri=SYSTEM_URI,
            qemu_user=qemu_user,
            allow_slow_kvm=allow_slow_kvm,
            emulator=emulator,
            displays=displays,
        )

    @classmethod
    def user(
        cls,
        *,
        qemu_user: str | None = None,
        allow_slow_kvm: bool = False,
        emulator: Path | None = None,
        displays: Displays = Displays(),
    ) -> Settings:
        """The per-user daemon's directories (XDG Base Directory Specification)."""
        home = Path.home()

        def base(variable: str, default: Path) -> Path:
            value = os.environ.get(variable, "")
            return (Path(value) if value.startswith("/") else default) / "corral"

        cache = base("XDG_CACHE_HOME", home / ".cache")
        return cls(
            state=base("XDG_DATA_HOME", home / ".local/share"),
            run=(runtime_dir() or cache / "corral-run") / "corral",
            cache=cache,
            log=cache / "log",
            session=True,
            uri=SESSION_URI,
            qemu_user=qemu_user,
            allow_slow_kvm=allow_slow_kvm,
            emulator=emulator,
            displays=displays,
        )

    @property
    def certificates(self) -> Path:
        """The directory of displays' certificates, whether or not there are some."""
        return self.displays.certificates or self.state / "certificates"

    @property
    def store(self) -> Path:
        """The SQLite file with every definition and every running domain."""
        return self.state / "corral.sqlite"

    @property
    def nvram(self) -> Path:
        """The directory of the guests' firmware variables."""
        return self.state / "nvram"

    @property
    def images(self) -> Path:
        """Where disks go that are made for a machine, when its owner names no place."""
        return self.state / "images"

    @property
    def dumps(self) -> Path:
        """Where `on_crash=coredump-*`, or a watchdog, leaves the guest's memory."""
        return self.state / "dump"

    def domain_log(self, name: str) -> Path:
        """The log of QEMU's own output for the domain of that name."""
        return self.log / f"{name}.log"

    def domain_run(self, domain_id: int) -> Path:
        """The directory of one running domain's sockets; the id is never reused, so neither is the path."""
        return self.run / f"d{domain_id}"
