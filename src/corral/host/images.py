"""Image files by their headers: format, sizes, backing image, and what else a reader of qcow2 wants to know.

Every read and every length in a header is bounded. Headers: QEMU's docs/interop/qcow2; the others, as far as the few
fields here go: VDI, VMDK 4 (sparse extent), VHD ("conectix" footer), VHDX, QED, ISO 9660 (ECMA-119, 8.1).
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from corral.errors import ConfigUnsupported, HostError

_QCOW2_MAGIC = b"QFI\xfb"
_V2_HEADER = 72
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_EXTERNAL_DATA = 1 << 2
_EXTENDED_L2 = 1 << 4
_LAZY_REFCOUNTS = 1 << 0
_HEADER_LIMIT = 64 * 1024
_NAME_LIMIT = 1023
_FIRST_LOOK = 512
_ISO_AT, _ISO_MAGIC = 0x8001, b"CD001"


@dataclass(frozen=True, slots=True)
class Image:
    """One file of a chain; sizes in bytes; `backing_path` as the header says it (relative to the image's folder).

    For formats other than raw and qcow2 `inspect` leaves `virtual_size` at the file's size and knows no backing image.
    `version` and what follows it is of qcow2 alone.
    """

    path: Path
    format: str
    virtual_size: int
    allocated: int
    backing_path: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encrypted: bool = False
    is_block: bool = False
    version: int = 0
    cluster_size: int = 0
    lazy_refcounts: bool = False
    extended_l2: bool = False

    @property
    def tables(self) -> int:
        """Bytes of the tables that say where all clusters are (L2 tables of qcow2); 0 for other formats."""
        entry = 16 if self.extended_l2 else 8
        return -(-self.virtual_size // self.cluster_size) * entry if self.cluster_size else 0


def inspect(path: Path, format: str = "raw") -> Image:
    """Read what the file's header says, believing `format`; blocks on the file system.

    Raises HostError when it cannot be read, ConfigUnsupported when it is not of that format.
    """
    try:
        with open(path, "rb", buffering=0, opener=opener) as file:
            facts = os.fstat(file.fileno())
            is_block = stat.S_ISBLK(facts.st_mode)
            if not is_block and not stat.S_ISREG(facts.st_mode):
                raise ConfigUnsupported(f"'{path}' is neither a file nor a block device")
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            image = Image(path, format, size, facts.st_blocks * 512 if not is_block else size, is_block=is_block)
            return _qcow2(image, os.pread(file.fileno(), _HEADER_LIMIT, 0)) if format == "qcow2" else image
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error


def detect(path: Path) -> str:
    """`qcow2` or `raw`, by the header: only for images that no guest has written (downloads, templates)."""
    try:
        with open(path, "rb", opener=opener) as file:
            return "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw"
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error


def probe(path: Path) -> Image:
    """What a file is by its header, whatever it claims to be: for showing it, not for giving it to a guest.

    Blocks on the file system; HostError when the file cannot be read. A header that is damaged makes it `raw`.
    """
    try:
        with open(path, "rb", buffering=0, opener=opener) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
                raise ConfigUnsupported(f"'{path}' is neither a file nor a block device")
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            header = os.pread(file.fileno(), _FIRST_LOOK, 0)
            if header[:4] == _QCOW2_MAGIC:
                header += os.pread(file.fileno(), _HEADER_LIMIT - len(header), len(header))
            elif os.pread(file.fileno(), len(_ISO_MAGIC), _ISO_AT) == _ISO_MAGIC:
                header = header[:_ISO_AT].ljust(_ISO_AT, b"\0") + _ISO_MAGIC
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error
    is_block = stat.S_ISBLK(facts.st_mode)
    raw = Image(path, "raw", size, size if is_block else facts.st_blocks * 512, is_block=is_block)
    try:
        if header[:4] == _QCOW2_MAGIC:
            return _qcow2(raw, header)
        for name, at, magic, field, form, scale in _FOREIGN:
            if header[at : at + len(magic)] == magic:
                capacity = struct.unpack_from(form, header, field)[0] * scale if form else size
                return replace(raw, format=name, virtual_size=capacity)
    except (ConfigUnsupported, struct.error):
        pass
    return raw


#: Format, where its magic is and what it is, then where the capacity is, how it is written and in how many bytes.
_FOREIGN: tuple[tuple[str, int, bytes, int, str, int], ...] = (
    ("iso", _ISO_AT, _ISO_MAGIC, 0, "", 1),
    ("vmdk", 0, b"KDMV", 12, "<Q", 512),
    ("vdi", 64, b"\x7f\x10\xda\xbe", 368, "<Q", 1),
    ("vpc", 0, b"conectix", 48, ">Q", 1),
    ("vhdx", 0, b"vhdxfile", 0, "", 1),
    ("qed", 0, b"QED\0", 48, "<Q", 1),
)


def opener(path: str, flags: int) -> int:
    """Open without waiting: a FIFO or a tape in an image's place would hold us for ever."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _qcow2(image: Image, header: bytes) -> Image:
    """What a qcow2 header says; every length is checked against what was read."""
    if len(header) < _V2_HEADER or header[:4] != _QCOW2_MAGIC:
        raise ConfigUnsupported(f"image '{image.path}' is not in qcow2 format")
    version, name_at, name_length, cluster_bits, size, crypt = struct.unpack_from(">IQIIQI", header, 4)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise ConfigUnsupported(f"image '{image.path}' has a damaged or unknown qcow2 header (version {version})")
    incompatible, compatible, length = 0, 0, _V2_HEADER
    if version == 3 and len(header) >= 104:
        incompatible, compatible = struct.unpack_from(">QQ", header, 72)
        (length,) = struct.unpack_from(">I", header, 100)
    backing_path = None
    if name_at:
        if name_length > _NAME_LIMIT or name_at + name_length > len(header):
            raise ConfigUnsupported(f"image '{image.path}' has a damaged qcow2 header: backing file name")
        backing_path = _text(header[name_at : name_at + name_length]) or None
    extensions = _extensions(header, length, name_at or len(header))
    data_file = extensions.get(_DATA_FILE) if incompatible & _EXTERNAL_DATA else None
    return Image(
        path=image.path,
        format="qcow2",
        virtual_size=size,
        allocated=image.allocated,
        backing_path=backing_path,
        backing_format=extensions.get(_BACKING_FORMAT) if backing_path else None,
        data_file=data_file,
        encrypted=crypt != 0,
        is_block=image.is_block,
        version=version,
        cluster_size=1 << cluster_bits,
        lazy_refcounts=bool(compatible & _LAZY_REFCOUNTS),
        extended_l2=bool(incompatible & _EXTENDED_L2),
    )


def _extensions(header: bytes, at: int, end: int) -> dict[int, str]:
    """Header extensions that are text: type → content; an end marker or the end of the area stops it."""
    found: dict[int, str] = {}
    while at + 8 <= min(end, len(header)):
        kind, length = struct.unpack_from(">II", header, at)
        if kind == 0 or at + 8 + length > len(header):
            break
        if kind in (_BACKING_FORMAT, _DATA_FILE):
            found[kind] = _text(header[at + 8 : at + 8 + length])
        at += 8 + (length + 7) // 8 * 8
    return found


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])
