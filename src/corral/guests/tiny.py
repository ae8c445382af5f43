"""A Linux guest of a few megabytes: Debian's kernel, busybox and the QEMU guest agent, built on the user's machine.

Built once and kept under a name made of what went in: the packages' versions and the digest of this recipe. A kernel
unpacked beforehand and an uncompressed initramfs cost disk space and save seconds of a guest without acceleration.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID
from xml.sax.saxutils import escape

from corral.errors import HostError, OperationFailed
from corral.guests import kernel, libraries, modules, packages
from corral.guests.cpio import Archive

if TYPE_CHECKING:
    from corral.model.domain import Domain

#: What the guest's kernel is told; `console` names the serial port, where the shell is too.
#: Left out are checks that cost an emulated CPU half a second: the cipher tests, the timer check, the pass that makes
#: the kernel's own pages read-only.
CMDLINE = "console=ttyS0 quiet panic=-1 memhp_default_state=online_movable cryptomgr.notests no_timer_check rodata=off"

_AGENT_PORT = "org.qemu.guest_agent.0"
_BUILD_TIMEOUT = 1200.0
_LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib")
_SCRIPTS = ("boot", "agent", "port", "hotplug", "consoles", "console", "console-start", "resume", "udhcpc", "mdev.conf")
_PROGRAMS = ("shutdown", "chpasswd", "pm-is-supported", "pm-suspend-hybrid")
_PARTS = ("bzImage", "initrd", "vmlinuz")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root::20000:0:99999:7:::\n",
    "etc/group": "root:x:0:\n",
    "etc/profile": "PS1='\\h:\\w\\$ '\nexport PATH=/bin:/sbin HOME=/root TERM=${TERM:-linux}\n",
    "etc/inittab": "::sysinit:/etc/boot\n::ctrlaltdel:/bin/shutdown -r\n::shutdown:/bin/umount -a -r\n",
    "etc/os-release": 'ID=tiny\nNAME="Corral tiny guest"\nPRETTY_NAME="Corral tiny guest"\n',
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class Tiny:
    """The guest's files, and the kernel command line that they need.

    `kernel` is unpacked, for BIOS; `packed` is as the distribution has it, which UEFI can start.
    """

    kernel: Path
    initrd: Path
    cmdline: str
    packed: Path


@dataclass(frozen=True, slots=True)
class _Ingredients:
    """Where the parts are: `root` is the folder that stands for `/`, below which libraries are looked for."""

    kernel: Path
    modules: Path
    busybox: Path
    agent: Path
    root: Path


def cache_folder() -> Path:
    """Where the guest is kept: /var/cache/corral for root, $XDG_CACHE_HOME/corral for others."""
    if os.geteuid() == 0:
        return Path("/var/cache/corral")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"


async def build(cache: Path | None = None, progress: Callable[[str], None] | None = None) -> Tiny:
    """The guest from the cache, or built now (half a minute, mostly the download); `progress` gets one line a step.

    `cache` defaults to `cache_folder()`. Raises OperationFailed with a hint at what to install or to run.
    """
    say = progress or (lambda _line: None)
    cache = cache or cache_folder()
    recipe = _recipe_digest()
    if (kept := await asyncio.to_thread(_find, cache, recipe)) is not None:
        return kept
    if platform.machine() != "x86_64":
        raise OperationFailed(f"the tiny guest is x86-64 only, and this host is {platform.machine()}")
    with _one_builder(cache) as lock:
        async with asyncio.timeout(_BUILD_TIMEOUT):
            await _locked(lock)
            if (kept := await asyncio.to_thread(_find, cache, recipe)) is not None:
                return kept
            with tempfile.TemporaryDirectory(prefix=".tiny-", dir=cache) as scratch:
                ingredients, sources = await _gather(Path(scratch), say)
                say("Building the tiny guest")
                return await asyncio.to_thread(_assemble, ingredients, sources, recipe, Path(scratch), cache)


def _recipe_digest() -> str:
    """A digest of everything of ours that goes into the guest: scripts, tables and the code that puts it together."""
    digest = hashlib.sha256()
    for module in (__file__, kernel.__file__, modules.__file__, libraries.__file__):
        digest.update(Path(module).read_bytes())
    for name in ("init", *_PROGRAMS, *_SCRIPTS):
        digest.update(_data(name))
    return digest.hexdigest()[:16]


def _data(name: str) -> bytes:
    return resources.files("corral.guests").joinpath("data", name).read_bytes()


def _find(cache: Path, recipe: str) -> Tiny | None:
    """The newest guest in the cache that was made by this recipe and is whole."""
    for manifest in sorted(cache.glob("tiny-*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            facts = json.loads(manifest.read_text())
            files = [manifest.parent / name for name in _PARTS]
            if facts["recipe"] == recipe and [file.stat().st_size for file in files] == facts["sizes"]:
                return _at(manifest.parent)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _at(folder: Path) -> Tiny:
    kernel, initrd, packed = (folder / name for name in _PARTS)
    return Tiny(kernel, initrd, CMDLINE, packed)


@contextmanager
def _one_builder(cache: Path) -> Iterator[int]:
    """The cache folder's lock file, not locked yet."""
    try:
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(cache / ".tiny.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"cannot keep the tiny guest in {cache}: {error.strerror}") from error
    try:
        yield lock
    finally:
        os.close(lock)


async def _locked(lock: int) -> None:
    """Take the lock, waiting for another builder: the one thing here that the kernel cannot tell an event loop."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            await asyncio.sleep(0.2)


async def _gather(scratch: Path, say: Callable[[str], None]) -> tuple[_Ingredients, dict[str, str]]:
    """The parts, from Debian's packages or else from this host."""
    if packages.available():
        try:
            return await _from_packages(scratch, say)
        except OperationFailed as error:
            try:
                return _from_host()
            except OperationFailed:
                raise error from None
    return _from_host()


async def _from_packages(scratch: Path, say: Callable[[str], None]) -> tuple[_Ingredients, dict[str, str]]:
    linux = await packages.concrete("linux-image-amd64")
    wanted = [linux, "busybox-static", *await packages.with_libraries("qemu-guest-agent")]
    sources = await packages.versions(*wanted)
    say(f"Downloading {linux}, busybox and the guest agent (about 80 MB)")
    files = await packages.download([name for name in wanted if name in sources], scratch)
    say("Unpacking")
    root = scratch / "root"
    for file in files:
        await packages.unpack(file, root)
    release = linux.removeprefix("linux-image-")
    return (
        _Ingredients(
            kernel=root / "boot" / f"vmlinuz-{release}",
            modules=_first(root / "lib/modules" / release, root / "usr/lib/modules" / release),
            busybox=_first(root / "bin/busybox", root / "usr/bin/busybox"),
            agent=_first(root / "usr/sbin/qemu-ga", root / "usr/bin/qemu-ga"),
            root=root,
        ),
        sources,
    )


def _first(*paths: Path) -> Path:
    """The first of the paths that exists: distributions have moved /bin and /lib below /usr."""
    for path in paths:
        if path.exists():
            return path
    raise OperationFailed(f"{paths[-1].name} is not in its package")


def _from_host(root: Path = Path("/")) -> tuple[_Ingredients, dict[str, str]]:
    """This host's own kernel, busybox and agent; says what is missing. `root` stands for `/`."""
    release = platform.release()
    programs = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/libexec")
    candidates = {
        "a kernel": [f"boot/vmlinuz-{release}", f"lib/modules/{release}/vmlinuz", f"usr/lib/modules/{release}/vmlinuz"],
        "its modules": [f"lib/modules/{release}/kernel", f"usr/lib/modules/{release}/kernel"],
        "busybox": [f"{folder}/{name}" for name in ("busybox.static", "busybox") for folder in programs],
        "qemu-guest-agent": [f"{folder}/qemu-ga" for folder in programs],
    }
    found = {
        what: next((root / path for path in paths if os.access(root / path, os.R_OK)), None)
        for what, paths in candidates.items()
    }
    if missing := [what for what, path in found.items() if path is None]:
        raise OperationFailed(
            f"the tiny guest needs {', '.join(missing)} from this host, which is not Debian",
            hint=f"install {' and '.join(w for w in missing if ' ' not in w) or f'the kernel {release}'} "
            "(and see that this user may read the files in /boot)",
        )
    image, tree, busybox, agent = (path for path in found.values() if path is not None)
    facts = {what: f"{path} {path.stat().st_mtime_ns}" for what, path in found.items() if path is not None}
    return _Ingredients(image, tree.parent, busybox, agent, root), facts


def _assemble(parts: _Ingredients, sources: dict[str, str], recipe: str, scratch: Path, cache: Path) -> Tiny:
    """Write kernel, initramfs and manifest into a folder of their own and move it into place as a whole."""
    key = hashlib.sha256(json.dumps([recipe, sources], sort_keys=True).encode()).hexdigest()[:16]
    made = scratch / "made"
    made.mkdir(mode=0o755)
    image = parts.kernel.read_bytes()
    (made / "vmlinuz").write_bytes(image)
    (made / "bzImage").write_bytes(kernel.unpacked(image) or image)
    with (made / "initrd").open("wb") as out:
        _write_initramfs(Archive(out), parts)
    sizes = [(made / name).stat().st_size for name in _PARTS]
    (made / "manifest.json").write_text(json.dumps({"recipe": recipe, "sizes": sizes, "sources": sources}, indent=1))
    for path in made.iterdir():
        path.chmod(0o644)
    place = cache / f"tiny-{key}"
    if place.exists():
        shutil.rmtree(place)
    made.rename(place)
    return _at(place)


def _write_initramfs(archive: Archive, parts: _Ingredients) -> None:
    for folder in ("proc", "sys", "dev", "run", "root", "tmp", "mnt", "sbin", "var/log", "usr"):
        archive.folder(folder)
    archive.link("usr/bin", "/bin")
    archive.link("usr/sbin", "/sbin")
    archive.link("var/run", "/run")
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3)
    archive.file("init", _data("init"), executable=True)
    for name in _SCRIPTS:
        archive.file(f"etc/{name}", _data(name), executable=name != "mdev.conf")
    for name, text in _FILES.items():
        archive.file(name, text.encode())
    _write_programs(archive, parts)
    _write_modules(archive, parts)
    archive.finish()


def _write_programs(archive: Archive, parts: _Ingredients) -> None:
    """busybox with a link for each of its commands, the agent, and the libraries of both where the loader looks."""
    archive.file("bin/busybox", parts.busybox.read_bytes(), executable=True)
    own = ("busybox", "qemu-ga", *_PROGRAMS)
    applets = subprocess.run([parts.busybox, "--list"], capture_output=True, text=True, timeout=30, check=True).stdout
    for applet in applets.split():
        if applet not in own:
            archive.link(f"bin/{applet}", "busybox")
    for program in _PROGRAMS:
        archive.file(f"bin/{program}", _data(program), executable=True)
    archive.link("etc/acpi/PWRF/00000080", "/bin/shutdown")
    archive.file("bin/qemu-ga", parts.agent.read_bytes(), executable=True)
    for command in ("shutdown", "poweroff", "reboot", "halt", "modprobe", "init", "hwclock"):
        archive.link(f"sbin/{command}", f"/bin/{command}")
    _write_libraries(archive, parts)


def _write_libraries(archive: Archive, parts: _Ingredients) -> None:
    """What the agent and busybox load, in the folders that their loader knows, and the loader where they ask for it."""
    folders = [parts.root / name for name in _LIBRARY_FOLDERS]
    written: set[str] = set()
    for program in (parts.agent, parts.busybox):
        interpreter, needed = libraries.closure(program, folders)
        files = {str(file.relative_to(parts.root)): file for file in needed.values()}
        if interpreter is not None:
            # The loader is a library, too, for some programs; it is needed under the name that they give.
            files[interpreter.lstrip("/")] = _first(*(folder / Path(interpreter).name for folder in folders))
        for path, file in files.items():
            if path not in written:
                written.add(path)
                archive.file(path, file.read_bytes(), executable=True)


def _write_modules(archive: Archive, parts: _Ingredients) -> None:
    found = modules.collect(parts.modules)
    folder = f"lib/modules/{parts.modules.name}"
    for name, module in sorted(found.modules.items()):
        archive.file(f"{folder}/{name}.ko", module.data)
    archive.file(f"{folder}/modules.dep", found.dependencies().encode())
    archive.file(f"{folder}/modules.alias", found.aliases().encode())
    first = "".join(f"{parts.modules.name}/{name}.ko\n" for name in found.order(modules.FIRST))
    archive.file("etc/modules-first", first.encode())
    archive.file(
        "etc/modules-always", "".join(f"{name}\n" for name in modules.ALWAYS if name in found.modules).encode()
    )


_DOCUMENT = """\
<domain type='{type}'>
  <name>{name}</name>
  {uuid}
  {memory}
  <vcpu{current}>{cpus}</vcpu>
  <os{efi}>
    <type arch='x86_64' machine='q35'>hvm</type>
    {firmware}
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  {cpu}
  <clock offset='utc'/>
  <devices>
    {ports}
    <interface type='user'>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='pty'/>
    <channel type='unix'>
      <target type='virtio' name='{port}'/>
    </channel>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  {growing}</devices>
</domain>
"""


def document(
    name: str,
    *,
    tiny: Tiny,
    cpus: int = 1,
    memory_kib: int = 256 * 1024,
    max_cpus: int | None = None,
    max_memory_kib: int | None = None,
    kvm: bool = False,
    uuid: UUID | None = None,
    efi: bool = False,
) -> Domain:
    """A domain that boots the guest: serial console, agent channel, virtio user network, rng; its host name is `name`.

    `cpus` and `memory_kib` are there at start, up to `max_cpus` and `max_memory_kib` may be plugged. The guest
    needs 160 MiB to start, 256 with UEFI (`efi`),
    which does not check signatures: the guest's kernel has none that the firmware knows.
    """
    from corral.model import growth
    from corral.model.domain import Domain

    # A name with blanks or other signs is a fine name for a domain, but no host name.
    hostname = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:63] or "tiny"
    return Domain.from_xml(
        _DOCUMENT.format(
            type="kvm" if kvm else "qemu",
            name=escape(name),
            uuid=f"<uuid>{uuid}</uuid>" if uuid else "",
            memory=growth.sizes(memory_kib, max_memory_kib),
            ports=growth.ports(),
            growing=growth.device(memory_kib, max_memory_kib),
            current=f" current='{cpus}'" if max_cpus and max_cpus > cpus else "",
            cpus=max(cpus, max_cpus or cpus),
            efi=" firmware='efi'" if efi else "",
            firmware="<firmware><feature enabled='no' name='secure-boot'/></firmware>" if efi else "",
            kernel=escape(str(tiny.packed if efi else tiny.kernel)),
            initrd=escape(str(tiny.initrd)),
            cmdline=escape(f"{tiny.cmdline} hostname={hostname}"),
            cpu="<cpu mode='host-passthrough'/>" if kvm else "",
            port=_AGENT_PORT,
        )
    )
