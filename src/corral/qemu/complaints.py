"""What to do about the words with which QEMU refuses to start: they name its own parts, and no remedy."""

from __future__ import annotations

import re

#: What QEMU 7 to 10 say, and what helps.
REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"cannot set up guest memory|Cannot allocate memory|unable to map backing store",
        "this host cannot give the guest so much memory: ask for less",
    ),
    (
        r"invalid kernel header|could not load kernel|Error loading uncompressed kernel|not a valid (ELF|kernel)",
        "the kernel is none that this machine can boot: on x86 a Linux bzImage, such as /boot/vmlinuz-VERSION",
    ),
    (
        r"initrd is too large|kernel (is )?too large|ram size.*too small|not enough (memory|space)",
        "give the machine more memory",
    ),
    (
        r'Failed to get (shared )?"?(write|consistent read|resize)"? lock',
        "another program has the image open: end it, or work on a copy",
    ),
    (r"Image is not in \w+ format|not in \w+ format", "name the format that the image has; qemu-img info says it"),
    (r"Could not find ROM|could not load (PC )?BIOS|failed to find romfile", "install QEMU's firmware: seabios, ovmf"),
    (r"No space left on device", "make room on the disk that is full"),
    (r"Address already in use", "another program has that port or socket: choose another"),
)
_PREFIX = re.compile(r"(^|(?<=: ))(\d{4}-\d\d-\d\dT[\d:.]+Z )?(/\S*/)?qemu(-system-\w+)?: ", re.MULTILINE)


def remedy(words: str) -> str | None:
    """One sentence on what to do, or None where QEMU's words are all that is known."""
    return next((text for pattern, text in REMEDIES if re.search(pattern, words)), None)


def plain(words: str) -> str:
    """QEMU's words without the time and the program's name before each line."""
    return _PREFIX.sub("", words)
