"""Encoded answers to queries, kept as long as the domain that they speak of does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.protocol.procedures import Procedure

#: Entries, and bytes of answers and questions, over which all are forgotten: they are made again in microseconds.
ENTRIES_MAX = 20_000
BYTES_MAX = 4 << 20

Key = tuple["Procedure", bytes]


class Answers(dict[Key, tuple["Domain", int, bytes]]):
    """Procedure and undecoded arguments → domain, its generation when this was said, encoded answer.

    An entry is good while `domain.generation` equals the kept one; a domain that goes away changes it too.
    """

    size = 0

    def put(self, key: Key, domain: Domain, answer: bytes) -> None:
        """Keep an answer."""
        self.size += len(answer) + len(key[1]) + 200
        if self.size > BYTES_MAX or len(self) >= ENTRIES_MAX:
            self.clear()
            self.size = len(answer) + len(key[1]) + 200
        self[key] = (domain, domain.generation, answer)
