"""Which shared libraries a program needs, read from the ELF files themselves (elf(5)), without running anything."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from corral.errors import OperationFailed

_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NEEDED, _STRING_TABLE = 1, 5


def closure(program: Path, folders: Sequence[Path]) -> tuple[str | None, dict[str, Path]]:
    """(loader's path or None for a static program, library name → file) of all that `program` needs.

    Libraries are looked for in `folders` in order; OperationFailed names one that is in none.
    """
    interpreter, todo = _needs(program)
    found: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        if name in found:
            continue
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise OperationFailed(f"{program.name} needs {name}, which is not there")
        found[name] = file
        todo += _needs(file)[1]
    return interpreter, found


def _needs(path: Path) -> tuple[str | None, list[str]]:
    """The loader that an ELF file asks for, and the names of its libraries."""
    elf = path.read_bytes()
    if elf[:6] != b"\x7fELF\x02\x01":
        raise OperationFailed(f"{path} is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
    interpreter = next((elf[h[2] : h[2] + h[5]].rstrip(b"\0").decode() for h in headers if h[0] == _INTERPRETER), None)
    dynamic = next((h for h in headers if h[0] == _DYNAMIC), None)
    if dynamic is None:
        return interpreter, []
    entries = list(struct.iter_unpack("<QQ", elf[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    address = next(value for tag, value in entries if tag == _STRING_TABLE)
    segment = next(h for h in headers if h[0] == _LOAD and h[3] <= address < h[3] + h[5])
    strings = address - segment[3] + segment[2]
    return interpreter, [
        elf[strings + value : elf.index(b"\0", strings + value)].decode() for tag, value in entries if tag == _NEEDED
    ]
