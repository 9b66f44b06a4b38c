"""The pure parts of the load benchmark: the load, the verdict, the page."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from tests.benchmarks.figures import Figure
from tests.benchmarks.load import page
from tests.benchmarks.load.page import Run
from tests.benchmarks.load.plan import Answers, Look, Plan, figures, over_time, parse_buffers
from tests.benchmarks.report import Outcome

PLAN = Plan(seconds=600.0)
IDLE = Look(0.0, 120.0, 30, 2.0)
GOOD = Answers(
    requests=120_000,
    megabytes=12_000.0,
    manifests={"p50": 1.0, "p99": 49.0},
    layers={"p50": 1.0, "p99": 500.0},
    samples={"manifests": 70_000, "layers": 50_000},
    late={"p50": 0.1},
    open=1_990.0,
    cpu=60.0,
    wrong=0,
    broken=0,
    refused=0,
    examples=[],
)


def looks(*, growth: float = 0.0, leak: float = 0.0, base: float = 150.0) -> list[Look]:
    """Return a look every 10 s; RSS grows by `growth` MB a minute, descriptors by `leak`."""
    return [
        Look(10.0 * n, base + growth * n / 6, 2_030 + round(leak * n / 6), 2.0 + 3.0 * n)
        for n in range(60)
    ]


def missed(answers: Answers = GOOD, seen: list[Look] | None = None) -> set[str]:
    """Return the names of the figures that miss a bound."""
    found = figures(PLAN, IDLE, looks() if seen is None else seen, answers, is_judged=True)
    return {figure.name for figure in found if figure.is_over}


def test_the_load_is_what_the_page_says() -> None:
    """2,000 connections, and 200 requests a second."""
    assert (PLAN.connections, PLAN.rate) == (2_000, 200.0)
    said = page.conditions(PLAN, relayed=False)
    assert said["connections"].startswith("2,000 from 50 addresses")
    assert said["requests"] == "200 a second in all, at set times, for 600 s"


@pytest.mark.parametrize(
    ("seconds", "window", "interval"), [(600.0, 60.0, 10.0), (300.0, 60.0, 10.0), (18.0, 4.5, 0.75)]
)
def test_a_short_run_compares_shorter_windows(
    seconds: float, window: float, interval: float
) -> None:
    """The windows never overlap, and each has six looks."""
    plan = Plan(seconds=seconds)
    assert (plan.window, plan.interval) == (window, interval)
    assert plan.ramp < plan.window <= 2 * plan.window <= seconds - plan.window


def test_the_last_look_is_before_the_clients_leave() -> None:
    """A node that has closed its connections looks like one without a leak."""
    assert (PLAN.looks()[0], PLAN.looks()[-1], len(PLAN.looks())) == (0.0, 590.0, 60)


def test_a_good_run_passes() -> None:
    """All bounds hold."""
    assert missed() == set()


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        pytest.param(replace(GOOD, wrong=1), "answers", id="wrong"),
        pytest.param(replace(GOOD, broken=1), "answers", id="broken"),
        pytest.param(replace(GOOD, refused=1), "answers", id="refused"),
        pytest.param(replace(GOOD, open=1_800.0), "connections missing", id="fewer-connections"),
        pytest.param(
            replace(GOOD, manifests={"p50": 1.0, "p99": 51.0}), "manifest, whole", id="slow"
        ),
        pytest.param(
            replace(GOOD, manifests={"p50": 1.0, "p99": float("nan")}),
            "manifest, whole",
            id="nothing",
        ),
    ],
)
def test_a_bad_answer_fails_it(answers: Answers, name: str) -> None:
    """One wrong answer is too many, and so is a load that was less than it says."""
    assert missed(answers) == {name}


def test_growth_fails_it() -> None:
    """The last minute is held against the second one: eight minutes of 1 MB are too much."""
    assert missed(seen=looks(growth=0.5)) == set()
    assert missed(seen=looks(growth=1.0)) == {"RSS gained"}
    assert missed(seen=looks(leak=10.0)) == {"descriptors gained"}


def test_memory_above_idle_fails_it() -> None:
    """A node that takes 61 MB at once and keeps them is too big, though it does not grow."""
    assert missed(seen=looks(base=181.0)) == {"RSS"}


def test_the_ramp_is_no_growth() -> None:
    """What happens in the first minute is not compared."""
    first = [
        replace(look, rss=121.0, descriptors=40) if look.seconds < 60 else look for look in looks()
    ]
    assert missed(seen=first) == set()


def test_others_are_measured_and_not_judged() -> None:
    """Spegel's figures have no bounds."""
    found = figures(PLAN, IDLE, looks(), replace(GOOD, wrong=5), is_judged=False)
    assert not any(figure.targets or figure.is_over for figure in found)
    assert found[0].values["wrong"] == 5


def test_cpu_is_counted_from_idle() -> None:
    """What the node's start took is not the load's."""
    found = {figure.name: figure for figure in figures(PLAN, IDLE, looks(), GOOD, is_judged=True)}
    assert found["CPU"].values == {"node": pytest.approx(0.3), "generator": pytest.approx(0.1)}


def test_the_wait_for_a_core_is_a_share_of_the_run() -> None:
    """It tells a slow node from a busy machine."""
    seen = [replace(look, waited=1.0 + look.seconds / 10) for look in looks()]
    found = figures(PLAN, replace(IDLE, waited=1.0), seen, GOOD, is_judged=True)
    assert found[-1].values == {"mean": pytest.approx(10.0)}


def test_the_table_over_time_has_about_a_row_a_minute() -> None:
    """The first and the last look are in it; CPU is that since the row before."""
    rows = over_time(looks())
    assert rows[0] == ("second", "RSS, MB", "descriptors", "TCP buffers, MB", "CPU, cores")
    assert rows[1] == ("0", "150.0", "2030", "0", "")
    assert rows[-1] == ("590", "150.0", "2030", "0", "0.30")
    assert 11 <= len(rows) <= 15


def test_the_kernels_buffers_are_read() -> None:
    """They are told in pages, between other numbers."""
    pages = 1_000_000_000 // os.sysconf("SC_PAGE_SIZE")
    text = f"sockets: used 9\nTCP: inuse 4 orphan 1 tw 3 alloc 5 mem {pages}\nUDP: inuse 0 mem 7\n"
    assert parse_buffers(text) == pytest.approx(1_000, rel=1e-3)


def test_the_page_and_the_json_have_everything() -> None:
    """Failures are told in words, and each look is kept."""
    found: list[Figure] = figures(PLAN, IDLE, looks(), replace(GOOD, broken=1), is_judged=True)
    run = Run(
        Outcome(benchmark="spegel-py", figures=tuple(found)), tuple(looks()), ("10:00 broken: cut",)
    )
    text = page.markdown({"cores": 2}, [run])
    assert "- cores: 2" in text
    assert "- `10:00 broken: cut`" in text
    assert "spegel-py over time:" in text
    said = json.loads(page.as_json({"cores": 2}, [run]))
    (benchmark,) = said["benchmarks"]
    assert len(benchmark["over_time"]) == 60
    assert benchmark["figures"][0]["verdict"] == "over"
