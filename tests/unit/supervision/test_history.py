"""What is written down, and in which order: a node may be killed between any two words."""

from __future__ import annotations

from pathlib import Path

import pytest

from spegel_py.supervision.history import ALERTS, AUDIT, History
from spegel_py.supervision.journal import Journal, read
from spegel_py.supervision.repairs import RepairOutcome, RepairRecord


class _Killed(BaseException):
    """What ends a node at once."""


def test_what_was_done_is_written_before_the_alert_it_was_done_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is killed while it writes leaves no alert whose audit trail is lacking."""
    history = History(folder=tmp_path, still_open=list)
    history.add_repair(
        RepairRecord(
            alert="ALERT-20260101-001",
            action="restart",
            outcome=RepairOutcome.INTERRUPTED,
            began=0.0,
            seconds=0.0,
        )
    )
    flush = Journal.flush

    def killed_at_alerts(journal: Journal) -> None:
        if ALERTS in repr(journal):
            raise _Killed
        flush(journal)

    monkeypatch.setattr(Journal, "flush", killed_at_alerts)
    with pytest.raises(_Killed):
        history.flush(())
    assert [record["outcome"] for record in read(tmp_path, AUDIT)] == ["interrupted"]
