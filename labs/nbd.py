"""A real NBD server (qemu-nbd) on a UNIX socket: one that serves an image, or that fails where it is told to."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXPORT = "exp"


@dataclass(frozen=True)
class Fault:
    """An I/O error (EIO) of requests that touch this byte; `once`: the next such request works."""

    kind: Literal["read", "write"]
    at: int
    once: bool = False

    def options(self, number: int) -> dict[str, str]:
        # Before it reads, the server asks where there are holes: it answers that error, and hangs up at one of reading.
        asked = "block-status" if self.kind == "read" else "write"
        rule = {"event": "none", "iotype": asked, "errno": "5", "sector": str(self.at // 512)}
        rule["once"] = "on" if self.once else "off"
        return {f"file.inject-error.{number}.{name}": value for name, value in rule.items()}


@contextlib.contextmanager
def serving(image: Path, kind: str, faults: Sequence[Fault] = ()) -> Iterator[Path]:
    """The socket of a server of that image, ended with the block; open to QEMU's account."""
    place = image.with_suffix(".sock")
    what = {"driver": kind}
    what |= {"file.driver": "blkdebug", "file.image.driver": "file", "file.image.filename": str(image)}
    for number, fault in enumerate(faults):
        what |= fault.options(number)
    options = ",".join(f"{name}={value}" for name, value in what.items())
    command = ["qemu-nbd", "--socket", str(place), "--persistent", "--export-name", EXPORT, "--image-opts", options]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60
        while not place.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"qemu-nbd does not serve {image}")
            time.sleep(0.02)
        place.chmod(0o666)
        yield place
    finally:
        process.kill()
        process.wait(10)
