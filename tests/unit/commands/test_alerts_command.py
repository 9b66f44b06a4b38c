"""`spegel-py alerts` on what nodes leave behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spegel_py.cli import main
from spegel_py.commands.alerts_command import SHOWN
from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.conditions import Tier
from spegel_py.supervision.history import History
from spegel_py.supervision.isolation import KEPT, Episode, IsolationLevel
from spegel_py.supervision.repairs import RepairOutcome, RepairRecord

OPEN = Alert(
    id="ALERT-20251125-001",
    tier=Tier.P1,
    condition="containerd-away",
    subject="",
    source="watcher",
    detail="",
    opened=1_764_028_800.0,
    detection=1.5,
)


def write(folder: Path, *alerts: Alert) -> None:
    history = History(folder=folder, still_open=list)
    for alert in alerts:
        history.add_alert(alert)
        history.add_repair(
            RepairRecord(
                alert=alert.id,
                action="reconnect containerd",
                outcome=RepairOutcome.DONE,
                began=alert.opened,
                seconds=0.1,
            )
        )
    history.flush(())


@pytest.mark.parametrize(
    ("alert", "shown"),
    [
        (OPEN, "open"),
        (replace(OPEN, escalated=True), "escalated"),
        (replace(OPEN, closed=OPEN.opened + 9, recovery=7.0), "7.0 s"),
        (replace(OPEN, closed=OPEN.opened + 9), "restarted"),
    ],
    ids=["open", "escalated", "closed", "ended by a restart"],
)
def test_an_alert_is_shown_with_what_was_done(
    alert: Alert,
    shown: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table has the condition, its time, times to detection and recovery, and actions."""
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path, alert)
    assert main(["alerts", "--data-dir", str(tmp_path)]) == 0
    *_, line, below = capsys.readouterr().out.splitlines()
    for part in (
        "ALERT-20251125-001",
        "P1",
        "2025-11-25 00:00:00",
        "1.5 s",
        shown,
    ):
        assert part in line
    assert below.strip() == "containerd-away; reconnect containerd: done"


def test_the_latest_are_shown_unless_all_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of closed alerts the last are shown, of open ones all; --all shows everything that is
    kept.
    """
    closed = [
        replace(OPEN, id=f"ALERT-20251125-{number:03}", closed=OPEN.opened)
        for number in range(2, 40)
    ]
    write(tmp_path, OPEN, *closed)
    for flags, count in (([], SHOWN + 1), (["--all"], 39)):
        assert main(["alerts", "--data-dir", str(tmp_path), "--json", *flags]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert len(shown["alerts"]) == len(shown["actions"]) == count
        assert OPEN.id in [alert["id"] for alert in shown["alerts"]]


def test_a_node_without_alerts_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder in which nothing was recorded is no error; the folder may come from the
    environment.
    """
    assert main(["alerts", "--data-dir", str(tmp_path)]) == 0
    assert "no alert is recorded" in capsys.readouterr().out


def test_episodes_are_kept_and_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an episode the last state is kept, and of episodes the last hundred."""
    history = History(folder=tmp_path, still_open=list)
    for number in range(KEPT + 5):
        began = 1000.0 * number
        history.add_episode(Episode(began=began, level=IsolationLevel.WARNING, seconds=60.0))
        history.add_episode(
            Episode(began=began + 0.01, level=IsolationLevel.CRITICAL, seconds=300.0)
        )
        history.add_episode(
            Episode(
                began=began + 0.02,
                level=IsolationLevel.CRITICAL,
                seconds=310.0,
                ended=began + 310.0,
            )
        )
    history.flush(())
    assert len(history.episodes) == KEPT
    assert main(["alerts", "--data-dir", str(tmp_path), "--json"]) == 0
    episodes = json.loads(capsys.readouterr().out)["isolation"]
    assert [each["began"] for each in episodes] == [
        1000.0 * number for number in range(5, KEPT + 5)
    ]
    assert {each["seconds"] for each in episodes} == {310.0}
