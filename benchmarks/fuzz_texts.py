"""Random texts and bytes for `fuzz.py`: every plane of Unicode, no Unicode, every size up to the limit and over."""

from __future__ import annotations

import random

from spanqa import contract

PLANES = [range(plane << 16, (plane + 1) << 16) for plane in range(17)]
ODD = (
    "\0\x01\t\r\n\x7f\x85\xa0\xad\u0300\u0338\u034f\u061c\u0600\u0e33\u1100\u1161\u11a8\u180e\u200b\u200d\u200e\u200f"
    "\u2028\u2029\u202e\u2060\u2066\ufe0f\ufeff\ufffc\ufffd\ufffe\uffff\U0001f1e6\U0001f3ff\U0001f468\U000e0001\U0010ffff"
    "İıſẞŉǰΐﬀﬃ"
)
"""Controls, marks, joiners, directions, noncharacters, and letters whose lower case is longer."""
WORDS = ("the", "ferry", "to", "island", "leaves", "from", "old", "harbour", "every", "morning", "who", "1907", "in")


def _character(rng: random.Random) -> str:
    while True:
        code = rng.choice(PLANES)[rng.randrange(1 << 16)] if rng.random() < 0.5 else rng.randrange(0x3000)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def size_of(rng: random.Random, *, limit: int = contract.DEFAULT_MAX_CONTEXT_BYTES) -> int:
    """Choose a length: mostly of a paragraph, seldom of nothing, and very seldom around the limit."""
    chance = rng.random()
    if chance < 0.05:
        return rng.randrange(3)
    if chance > 0.9975:
        return rng.choice([limit - 1, limit, limit + 1, 2 * limit])
    return int(10 ** rng.uniform(0.3, 3.3))


def text_of(rng: random.Random, n_bytes: int | None = None) -> str:
    """Make a text of about so many bytes: of words, odd characters, any characters, or all of these."""
    n_bytes = size_of(rng) if n_bytes is None else n_bytes
    kind = rng.randrange(4)
    unit = [
        lambda: rng.choice(WORDS) + " ",
        lambda: rng.choice(ODD),
        lambda: _character(rng),
        lambda: rng.choice([rng.choice(WORDS), rng.choice(ODD), _character(rng), " ", ". "]),
    ][kind]
    parts: list[str] = []
    size = 0
    while size < min(n_bytes, 4000):
        parts.append(unit())
        size += len(parts[-1].encode())
    text = "".join(parts)
    if n_bytes > 4000:  # long ones repeat themselves: making them must not take longer than answering them
        text *= n_bytes // max(1, len(text.encode())) + 1
    return text.encode()[:n_bytes].decode(errors="ignore") if n_bytes else ""


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Damage some bytes: flip, cut, insert, double, or replace a length."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            del data[at : at + rng.randrange(1, 16)]
        else:
            data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
    return bytes(data)


def bytes_of_text(rng: random.Random) -> bytes:
    """Make what a sender may give as a text: UTF-8 mostly, else damaged UTF-8, another encoding or noise."""
    kind, text = rng.random(), text_of(rng)
    if kind < 0.7:
        return text.encode()
    if kind < 0.8:
        return mutated(rng, text.encode())
    if kind < 0.9:
        return text.encode(rng.choice(["utf-16", "utf-32", "utf-7"]))
    return rng.randbytes(size_of(rng, limit=10_000))
