"""Byte ranges: requested ones, their meaning for a size, and the ranges of answers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import RangeInvalid
from spegel_py.oci.range import MAX_PARTS, ByteRange, ContentRange, spans

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
    """A single byte range is read; other units and `0-` mean the whole content."""
    assert ByteRange.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0-9,1000-1009", ["0-9", "1000-1009"], id="two"),
        pytest.param("1000-1009, 0-9", ["0-9", "1000-1009"], id="out of order"),
        pytest.param("0-9,,20-29,", ["0-9", "20-29"], id="empty elements"),
        pytest.param("0-9,10-19", ["0-19"], id="adjacent"),
        pytest.param("0-9,5-7,3-19", ["0-19"], id="overlapping"),
        pytest.param("5-,7-9", ["5-"], id="within an open one"),
        pytest.param("7-9,5-", ["5-"], id="an open one around it"),
        pytest.param("5-9,-3,-7", ["5-9", "-7"], id="the longest suffix"),
        pytest.param("0-9,10-", [], id="everything"),
        pytest.param("0-,-5", [], id="everything, and a suffix"),
    ],
)
def test_ranges_that_touch_are_one(text: str, expected: list[str]) -> None:
    """The remaining ranges are in order, a suffix last."""
    found = [str(each) for each in ByteRange.parse_all(f"bytes={text}")]
    assert found == [f"bytes={each}" for each in expected]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("0-99999999999999999999", (0, 10)),
        ("3-" + "9" * 5000, (3, 7)),
        ("-99999999999999999999", (0, 10)),
        ("0000000000000000000000001-2", (1, 2)),
    ],
)
def test_a_number_may_have_any_number_of_digits(text: str, span: tuple[int, int]) -> None:
    """A number larger than any content means the content's end."""
    asked = ByteRange.parse(f"bytes={text}")
    assert asked is not None
    assert asked.resolve(10) == span


def test_a_start_of_many_digits_lies_outside() -> None:
    """It lies outside every content."""
    asked = ByteRange.parse("bytes=99999999999999999999-")
    assert asked is not None
    with pytest.raises(RangeInvalid):
        asked.resolve(10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0-1,5-6", [(0, 2), (5, 2)], id="two"),
        pytest.param("0-1,-2", [(0, 2), (8, 2)], id="a suffix"),
        pytest.param("0-1,5-,-2", [(0, 2), (5, 5)], id="a suffix within"),
        pytest.param("0-4,-5", [(0, 10)], id="a suffix beside it"),
        pytest.param("0-1,100-200", [(0, 2)], id="one outside"),
        pytest.param("0-1,9-200", [(0, 2), (9, 1)], id="cut at the end"),
    ],
)
def test_several_ranges_are_resolved_against_a_size(
    text: str,
    expected: list[tuple[int, int]],
) -> None:
    """Ranges outside are left out, and adjacent ones become one."""
    assert list(spans(ByteRange.parse_all(f"bytes={text}"), 10)) == expected


def test_several_ranges_that_all_lie_outside_are_refused_with_the_size() -> None:
    """The client needs the size for its next request."""
    with pytest.raises(RangeInvalid) as refused:
        spans(ByteRange.parse_all("bytes=10-11,20-"), 10)
    assert refused.value.detail == {"size": 10}


def test_many_ranges_are_joined_over_the_smallest_gaps() -> None:
    """A header must not make this node send hundreds of requests."""
    asked = [ByteRange(number * 100, number * 100) for number in range(MAX_PARTS)]
    asked += [ByteRange(51, 51), ByteRange(53, 53)]
    found = spans(asked, 100 * MAX_PARTS)
    assert len(found) == MAX_PARTS
    assert (0, 1) in found
    assert (51, 50) in found


def test_pages_far_apart_are_sent_without_what_lies_between() -> None:
    """As snapshotters ask that pull lazily: as many ranges as a header of 4 KiB has room for."""
    header = "bytes=" + ",".join(f"{page << 24}-{(page << 24) + 4095}" for page in range(180))
    assert len(header) < 4096
    found = spans(ByteRange.parse_all(header), 1 << 34)
    assert sum(length for _, length in found) == 180 * 4096


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), min_size=1)


@given(RANGES, st.integers(1, 40))
def test_spans_have_all_that_was_asked_for(pairs: list[list[int]], size: int) -> None:
    """Every requested byte is in one span, and no two spans touch."""
    ranges = [ByteRange(first, last) for first, last in pairs]
    wanted = {each for one in ranges for each in range(one.first or 0, (one.last or 0) + 1)}
    wanted &= set(range(size))
    try:
        found = spans(ranges, size)
    except RangeInvalid:
        assert not wanted
        return
    sent = [each for start, length in found for each in range(start, start + length)]
    assert sent == sorted(set(sent))
    assert wanted <= set(sent) <= set(range(size))
    assert all(sum(one) < other[0] for one, other in pairwise(found))


@pytest.mark.parametrize("text", ["", "-", "9-5", "a-b", "1-2-3", "--1", "\uff11-"])
def test_a_malformed_byte_range_is_refused(text: str) -> None:
    """A malformed `bytes` range is a RangeInvalid, not the whole content."""
    with pytest.raises(RangeInvalid):
        ByteRange.parse(f"bytes={text}")


@given(st.text(max_size=40))
def test_no_text_breaks_the_range_parser(text: str) -> None:
    """Any value is read, ignored or refused with RangeInvalid. A range prints back."""
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
def test_a_range_is_resolved_against_a_size(
    asked: ByteRange, size: int, expected: tuple[int, int]
) -> None:
    """A range gives start and length within the content."""
    assert asked.resolve(size) == expected


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (ByteRange(10, None), 10),
        (ByteRange(11, 12), 10),
        (ByteRange(None, 0), 10),
        (ByteRange(1, None), 0),
    ],
    ids=["at the end", "beyond", "empty suffix", "no content"],
)
def test_a_range_outside_the_content_is_refused_with_its_size(asked: ByteRange, size: int) -> None:
    """An unsatisfiable range is a RangeInvalid that carries the size."""
    with pytest.raises(RangeInvalid) as refused:
        asked.resolve(size)
    assert refused.value.detail == {"size": size}


@given(st.one_of(st.none(), NUMBERS), st.one_of(st.none(), NUMBERS), NUMBERS)
def test_resolved_ranges_lie_within_the_content(
    first: int | None, last: int | None, size: int
) -> None:
    """Any requested range gives bytes within the content, and its Content-Range reads back."""
    try:
        start, length = ByteRange(first, last).resolve(size)
    except RangeInvalid:
        return
    assert start >= 0
    assert 0 < length <= size - start
    said = ContentRange(start, length, size)
    assert ContentRange.parse(str(said)) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-4/*",
        "bytes=0-4/10",
        "bytes 0-4",
        "items 0-4/10",
    ],
)
def test_a_content_range_that_makes_no_sense_is_none(text: str) -> None:
    """A Content-Range that is malformed, impossible or without a size is ignored."""
    assert ContentRange.parse(text) is None


def test_an_unsatisfied_content_range_has_no_start() -> None:
    """`bytes */size` is read as an answer without bytes, and printed back."""
    said = ContentRange.parse("bytes */10")
    assert said == ContentRange(None, 0, 10)
    assert str(said) == "bytes */10"
