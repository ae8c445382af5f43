"""Encoded answers to queries, kept as long as what they speak of does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from corral.protocol.procedures import Procedure

    class Subject(Protocol):
        """A domain, or the hypervisor for what speaks of all of them."""

        generation: int


#: Entries, and bytes of answers and questions, over which all are forgotten: they are made again in microseconds.
ENTRIES_MAX = 20_000
BYTES_MAX = 4 << 20

Key = tuple["Procedure", bytes]


class Answers(dict[Key, tuple["Subject", int, bytes]]):
    """Procedure and undecoded arguments → subject, its generation when this was said, encoded answer.

    An entry is good while the subject's generation is the kept one; a domain that goes away changes it too.
    """

    size = 0

    def put(self, key: Key, subject: Subject, answer: bytes) -> None:
        """Keep an answer."""
        self.size += len(answer) + len(key[1]) + 200
        if self.size > BYTES_MAX or len(self) >= ENTRIES_MAX:
            self.clear()
            self.size = len(answer) + len(key[1]) + 200
        self[key] = (subject, subject.generation, answer)
