"""Inputs: bytes of no sense, right examples with a few faults, and JSON that is nearly right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

TOKENS = (
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b" ",
    b"\x1b[2J",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"-",
    b"-1",
    b"0",
    b"1e400",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'"\\ud800"',
    b"9" * 19,
    b"1" + b"0" * 400,
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 1500,
    b"%00",
    b"%2e%2e/",
    b"../",
    b"a" * 64,
    b"a." * 200,
    b"a" * 5000,
    b"(" * 500,
)
"""Pieces that parsers stumble over: numbers without end, depth, surrogates, control characters,
other encodings.
"""

LONGEST = 64 * 1024
"""Bytes of an input at most."""


@st.composite
def mutated(draw: st.DrawFn, examples: Sequence[bytes]) -> bytes:
    """Make an example with one to four faults: bytes changed, cut out, repeated, put in, or taken
    from another one.
    """
    data = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 1, 2, 4, 16, 64, 10**6))))
        match draw(st.integers(0, 5)):
            case 0:
                piece = draw(st.binary(min_size=1, max_size=4))
            case 1:
                piece = b""
            case 2:
                piece = data[start:end] * draw(st.sampled_from((2, 3, 100, 3000)))
            case 3:
                other = draw(st.sampled_from(examples))
                piece = other[draw(st.integers(0, len(other))) :]
            case _:
                piece = draw(st.sampled_from(TOKENS))
        data = (data[:start] + piece + data[end:])[:LONGEST]
    return data


def inputs(
    examples: Sequence[bytes], structured: st.SearchStrategy[bytes]
) -> st.SearchStrategy[bytes]:
    """Return all kinds of inputs together."""
    return st.one_of(mutated(examples), structured, st.binary(max_size=2048))


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        (-1, 0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 1e308, 0.1)
    ),
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Nd"]), max_size=10),
    st.sampled_from([token.decode("latin-1") for token in TOKENS]),
)
VALUES: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def objects(
    members: Mapping[str, st.SearchStrategy[object]],
) -> st.SearchStrategy[dict[str, object]]:
    """Return objects of which each member may be missing, or of another type than it should be."""
    odd = {name: st.one_of(right, right, right, VALUES) for name, right in members.items()}
    return st.fixed_dictionaries({}, optional=odd)


def as_json(values: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    """Return the values' JSON, in which numbers and texts are written as Python writes them: NaN
    and surrogates too.
    """
    return values.map(lambda value: json.dumps(value).encode())
