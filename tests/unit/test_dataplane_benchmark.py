"""The pure parts of the comparison of data planes: what is measured when, what the samples say, how
it is shown.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from xml.etree import ElementTree

import pytest

from tests.benchmarks.dataplane import page, plot
from tests.benchmarks.dataplane.conditions import spegel_version
from tests.benchmarks.dataplane.plan import (
    FirstByte,
    Manifests,
    Reading,
    Source,
    Streams,
    cells,
    turns,
)
from tests.benchmarks.dataplane.summary import Row, Sample, failures, rows
from tests.benchmarks.dataplane.tree import parse_peak

FOUR = Streams("relayed", 4, "copying")
SIXTEEN = Streams("local", 16, "copying")


def streams(
    number: int,
    candidate: str,
    *,
    cpu: float,
    cell: Streams = FOUR,
    peak: float = 100.0,
    refused: int = 0,
) -> Sample:
    return Sample(
        number, cell, candidate, {"cpu": cpu, "rate": 1 / cpu, "peak": peak, "refused": refused}
    )


def one(found: list[Row], unit: str) -> Row:
    (row,) = [row for row in found if row.unit == unit]
    return row


def test_every_candidate_is_measured_in_every_cell_once_a_round() -> None:
    """Each round measures each cell of each candidate, and the candidates of a cell follow each
    other.
    """
    planned = cells((1, 4, 16), with_slow_disk=True)
    order = list(turns("abc", planned, 2))
    assert Counter(order) == Counter(
        (number, cell, candidate) for number in range(2) for cell in planned for candidate in "abc"
    )
    assert [cell for number, cell, _ in order[::3] if number == 0] == planned


def test_candidates_take_turns_at_being_first() -> None:
    """Over the cells of a round, and the rounds of a cell, another candidate begins each time."""
    planned = cells((4,), with_slow_disk=False)
    firsts = [candidate for _, _, candidate in list(turns("abc", planned, 3))[::3]]
    assert firsts[:4] == ["a", "b", "c", "a"]
    assert {firsts[0], firsts[len(planned)], firsts[2 * len(planned)]} == {"a", "b", "c"}


def test_without_a_slow_disk_it_is_not_measured() -> None:
    """Where the disk cannot be slowed down its cell is left out, and nothing else."""
    left_out = set(cells((4,), with_slow_disk=True)) - set(cells((4,), with_slow_disk=False))
    assert left_out == {Manifests("local", is_slow=True)}


@pytest.mark.parametrize(
    ("source", "clients", "reading", "wanted"),
    [
        pytest.param("local", 4, "copying", 1.1, id="local"),
        pytest.param("relayed", 4, "copying", 0.5, id="relayed"),
        pytest.param("relayed", 4, "zero-copy", 0.35, id="relayed-zero-copy"),
        pytest.param("relayed", 1, "copying", None, id="one-client"),
    ],
)
def test_what_is_wanted(
    source: Source, clients: int, reading: Reading, wanted: float | None
) -> None:
    """Against Spegel's CPU something is wanted with four clients only."""
    assert Streams(source, clients, reading).wanted == wanted


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round in which everything cost three times as much changes the medians of all, but not the
    ratio.
    """
    costs = [(0.1, 0.2), (0.3, 0.6), (0.12, 0.24)]
    samples = [
        streams(number, name, cpu=cpu)
        for number, pair in enumerate(costs)
        for name, cpu in zip(("spegel-py", "Spegel"), pair, strict=True)
    ]
    row = one(rows(samples), "CPU-s/GB")
    assert row.values == {"spegel-py": 0.12, "Spegel": 0.24}
    assert (row.ratio, row.verdict) == (0.5, "pass")


def test_without_spegel_nothing_is_wanted_against_it() -> None:
    """With its column left out a ratio is not known, and is neither passed nor failed."""
    row = one(rows([streams(0, "spegel-py", cpu=0.1)]), "CPU-s/GB")
    assert math.isnan(row.ratio)
    assert row.verdict == ""


def test_a_measurement_that_failed_is_no_figure() -> None:
    """One failed round leaves a candidate without a figure, and us without what is wanted; the page
    names it.
    """
    samples = [
        streams(0, "spegel-py", cpu=0.1),
        Sample(1, FOUR, "spegel-py", {}, "TimeoutError: 8 s"),
        *(streams(number, "Spegel", cpu=1.0) for number in range(2)),
    ]
    row = one(rows(samples), "CPU-s/GB")
    assert math.isnan(row.values["spegel-py"])
    assert (row.values["Spegel"], row.verdict) == (1.0, "fail")
    assert failures(samples) == [
        "relayed, 4 copying clients, spegel-py, round 2: TimeoutError: 8 s"
    ]


def test_of_memory_the_most_counts() -> None:
    """One round above the limit fails, though the median is below it."""
    samples = [
        streams(number, "spegel-py", cpu=1.0, cell=SIXTEEN, peak=peak)
        for number, peak in enumerate((120, 171, 121))
    ]
    row = one(rows(samples), "MB RSS at most")
    assert (row.values["spegel-py"], row.verdict) == (171, "fail")


def test_refused_answers_are_shown_where_there_were_some() -> None:
    """The answers that were no 200 have a row, with those of all rounds; where there were none
    there is no row.
    """
    samples = [
        streams(number, "Spegel", cpu=1.0, refused=refused)
        for number, refused in enumerate((0, 2, 3))
    ]
    assert one(rows(samples), "answers other than 200").values == {"Spegel": 5}
    assert "answers other than 200" not in {row.unit for row in rows(samples[:1])}


def test_the_page_has_a_column_for_each_candidate() -> None:
    """A row shows every candidate's value in its column, the ratio, what is wanted, and the
    verdict.
    """
    samples = [
        streams(0, "spegel-py", cpu=0.3),
        streams(0, "Spegel", cpu=0.5),
        streams(0, "nginx", cpu=0.2),
    ]
    head, _, first, *_ = page.table(["spegel-py", "Spegel", "nginx"], rows(samples)).splitlines()
    assert [cell.strip() for cell in head.split("|")[3:6]] == ["spegel-py", "Spegel", "nginx"]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        *(
            "relayed, 4 copying clients",
            "CPU-s/GB",
            "0.300",
            "0.500",
            "0.200",
            "0.60×",
            "≤ 0.5×",
            "fail",
        ),
    ]


def test_the_json_holds_every_sample() -> None:
    """What was measured can be judged again from the file; what is not known is null in it."""
    samples = [Sample(0, FirstByte("local"), "spegel-py", {"p50": 1.0, "p99": 2.0, "count": 5})]
    found = json.loads(page.as_json({"cores": 2}, rows(samples), samples))
    assert found["samples"][0]["values"] == {"p50": 1.0, "p99": 2.0, "count": 5}
    assert [row["ratio"] for row in found["rows"]] == [None, None]


def test_the_drawing_has_a_bar_for_each_candidate_and_group() -> None:
    """It is well-formed, the highest bar fills the panel, and the others stand in proportion."""
    samples = [streams(0, "spegel-py", cpu=0.25), streams(0, "Go & more", cpu=0.5)]
    root = ElementTree.fromstring(plot.svg(["spegel-py", "Go & more"], rows(samples), "here"))
    heights = [
        float(bar.get("height", "0")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert heights[-1] == 2 * heights[-2] > 0


def test_peak_of_memory() -> None:
    """VmHWM is in KiB; the page shows MB."""
    assert parse_peak("Name:\tx\nVmHWM:\t  125000 kB\nVmRSS:\t 1 kB\n") == 128.0


@pytest.mark.parametrize(
    ("build", "version"),
    [
        pytest.param(
            "x: go1.26\n\tpath\tgithub.com/a/b\n\tmod\tgithub.com/a/b\tv0.7.4\th1:x=\n",
            "v0.7.4",
            id="release",
        ),
        pytest.param("\tmod\tgithub.com/a/b\t(devel)\t\n", "(devel)", id="checkout"),
        pytest.param("", "unknown", id="no-go"),
    ],
)
def test_the_version_of_a_go_binary(build: str, version: str) -> None:
    """What `go version -m` says of the main module is its version."""
    assert spegel_version(build) == version
