"""Values for any type of the interface, made up by a random number generator."""

from __future__ import annotations

import random
from typing import Any

from corral.protocol.compiler import Type, fields, resolve
from corral.protocol.interface import interface

RANGES = {
    "i": (-(2**31), 2**31 - 1),
    "I": (0, 2**32 - 1),
    "q": (-(2**63), 2**63 - 1),
    "Q": (0, 2**64 - 1),
    "3xB": (0, 255),
    "2xH": (0, 65535),
}
TEXT = "abcxyz019 <é\u65e5\udcff/>\n'\U0001f402"


def invent(kind: Type, rng: random.Random) -> Any:
    """Any value of a type, as plain data."""
    match kind.kind:
        case "scalar" if kind.base == "d":
            return rng.choice([0.0, -1.5, 1e300, float("inf")])
        case "scalar":
            low, high = RANGES[kind.base]
            return rng.choice([low, high, 0, 1, rng.randint(low, high)])
        case "fixed":
            return rng.randbytes(kind.limit)
        case "opaque":
            return rng.randbytes(min(kind.limit, rng.randrange(9)))
        case "string" | "chars":
            return "".join(rng.choices(TEXT, k=min(kind.limit // 4, rng.randrange(9))))
        case "fixed_chars":
            return "".join(rng.choices(TEXT, k=rng.randrange(kind.limit // 4)))
        case "optional":
            return None if rng.random() < 0.4 else invent(kind.inner, rng)
        case "list":
            return [invent(kind.inner, rng) for _ in range(min(kind.limit, rng.choice([0, 1, 2, 5])))]
        case "union":
            tag, arm = rng.choice(sorted(interface()["unions"][kind.base].items()))
            return (int(tag), invent(resolve(arm), rng))
        case _:
            return {name: invent(resolve(notation), rng) for name, notation in fields(kind.base)}
