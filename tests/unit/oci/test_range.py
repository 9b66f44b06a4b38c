"""Byte ranges: what is asked for, what it means for a size, and what an answer says it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import RangeInvalid
from spegel_py.oci.range import ByteRange, ContentRange

NUMBERS = st.integers(min_value=0, max_value=10**15)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("bytes=5-9", ByteRange(5, 9), id="closed"),
        pytest.param("bytes=5-", ByteRange(5, None), id="open"),
        pytest.param("bytes=-7", ByteRange(None, 7), id="suffix"),
        pytest.param("Bytes = 5-9 ", ByteRange(5, 9), id="case and space"),
        pytest.param("bytes=0-0", ByteRange(0, 0), id="one byte"),
        pytest.param("bytes=0-", None, id="everything"),
        pytest.param("bytes=0-1,5-6", None, id="several"),
        pytest.param("items=0-1", None, id="other unit"),
        pytest.param("bytes", None, id="no ranges"),
        pytest.param("", None, id="empty"),
    ],
)
def test_a_range_header_is_read_or_ignored(text: str, expected: ByteRange | None) -> None:
    """A single byte range is read; other units, several ranges and `0-` mean the whole content."""
    assert ByteRange.parse(text) == expected


@pytest.mark.parametrize("text", ["", "-", "9-5", "a-b", "1-2-3", "--1", "\uff11-"])
def test_a_malformed_byte_range_is_refused(text: str) -> None:
    """A `bytes` range that is not one is a RangeInvalid, not the whole content."""
    with pytest.raises(RangeInvalid):
        ByteRange.parse(f"bytes={text}")


@given(st.text(max_size=40))
def test_no_text_breaks_the_range_parser(text: str) -> None:
    """Any value is read, ignored or refused with RangeInvalid, and what was read is printed back alike."""
    try:
        parsed = ByteRange.parse(text)
    except RangeInvalid:
        return
    assert parsed is None or ByteRange.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        pytest.param(ByteRange(0, 0), 10, (0, 1), id="first byte"),
        pytest.param(ByteRange(3, 5), 10, (3, 3), id="inner"),
        pytest.param(ByteRange(3, 99), 10, (3, 7), id="cut at the end"),
        pytest.param(ByteRange(9, None), 10, (9, 1), id="last byte"),
        pytest.param(ByteRange(None, 4), 10, (6, 4), id="suffix"),
        pytest.param(ByteRange(None, 99), 10, (0, 10), id="suffix longer than the content"),
    ],
)
def test_a_range_is_resolved_against_a_size(asked: ByteRange, size: int, expected: tuple[int, int]) -> None:
    """A range gives start and length within the content."""
    assert asked.resolve(size) == expected


@pytest.mark.parametrize(
    ("asked", "size"),
    [(ByteRange(10, None), 10), (ByteRange(11, 12), 10), (ByteRange(None, 0), 10), (ByteRange(1, None), 0)],
    ids=["at the end", "beyond", "empty suffix", "no content"],
)
def test_a_range_outside_the_content_is_refused_with_its_size(asked: ByteRange, size: int) -> None:
    """An unsatisfiable range is a RangeInvalid that carries the size."""
    with pytest.raises(RangeInvalid) as refused:
        asked.resolve(size)
    assert refused.value.detail == {"size": size}


@given(st.one_of(st.none(), NUMBERS), st.one_of(st.none(), NUMBERS), NUMBERS)
def test_resolved_ranges_lie_within_the_content(first: int | None, last: int | None, size: int) -> None:
    """Whatever is asked, what is sent lies within the content, and its Content-Range reads back."""
    try:
        start, length = ByteRange(first, last).resolve(size)
    except RangeInvalid:
        return
    assert start >= 0
    assert 0 < length <= size - start
    said = ContentRange(start, length, size)
    assert ContentRange.parse(str(said)) == said


@pytest.mark.parametrize(
    "text", ["", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-4/*", "bytes=0-4/10", "bytes 0-4", "items 0-4/10"]
)
def test_a_content_range_that_makes_no_sense_is_none(text: str) -> None:
    """A Content-Range that is malformed, impossible or without a size is not believed."""
    assert ContentRange.parse(text) is None


def test_an_unsatisfied_content_range_has_no_start() -> None:
    """`bytes */size` is read as an answer without bytes, and printed back."""
    said = ContentRange.parse("bytes */10")
    assert said == ContentRange(None, 0, 10)
    assert str(said) == "bytes */10"
