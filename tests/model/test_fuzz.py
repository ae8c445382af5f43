"""Mutated documents: each is read or refused with an error of ours; what is read survives writing."""

from __future__ import annotations

import random
import re

import pytest
from tests.model import corpus

from corral.errors import CorralError
from corral.model.domain import Domain

TOKENS = re.compile(rb"<[^>]+>|'[^']*'|>[^<]+<")
VALUES = [
    b"",
    b"-1",
    b"0",
    b"1",
    b"4096",
    b"99999999999999999999",
    b"yes",
    b"on",
    b"\xc3\xa9",
    b"\xff",
    b"&amp;",
    b"&x;",
]


def mutated(rng: random.Random, document: bytes, tokens: list[bytes]) -> bytes:
    data = bytearray(document)
    for _ in range(rng.randint(1, 3)):
        places = list(TOKENS.finditer(data))
        choice = rng.random()
        if choice < 0.15 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif choice < 0.25:
            start = rng.randrange(len(data) + 1)
            del data[start : start + rng.randrange(1, 40)]
        elif places:
            place = rng.choice(places)
            quoted = [token for token in places if token.group().startswith(b"'")]
            if choice < 0.5:
                data[place.start() : place.end()] = rng.choice(tokens)
            elif quoted:
                place = rng.choice(quoted)
                data[place.start() : place.end()] = b"'" + rng.choice(VALUES) + b"'"
    return bytes(data)


def run(seed: int, count: int) -> int:
    rng = random.Random(seed)
    documents = [corpus.text(name).encode() for name in corpus.LIBVIRTD + corpus.VIRT_INSTALL]
    tokens = [match.group() for document in documents for match in TOKENS.finditer(document)]
    accepted = 0
    for _ in range(count):
        text = mutated(rng, rng.choice(documents), tokens)
        try:
            document = Domain.from_xml(text)
            document.check(text)
        except CorralError as error:
            assert str(error)
            continue
        accepted += 1
        assert Domain.from_xml(document.to_xml(secure=True)) == document
        assert Domain.from_json(document.to_json(secure=True)) == document
    return accepted


def test_mutated_documents() -> None:
    assert run(1, 2_000) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_mutated_documents() -> None:
    assert run(2, 50_000) > 500
