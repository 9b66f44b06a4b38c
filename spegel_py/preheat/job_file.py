"""The file of the pre-heat jobs, below the data directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from spegel_py.errors import OCIError
from spegel_py.preheat.preheat_job import PreheatJob
from spegel_py.tools.files import replace_file
from spegel_py.tools.threads import run

log = structlog.get_logger(__name__)

FILE = "preheat.json"


class JobFile:
    """The jobs of one node in a file, or without a folder nowhere.

    A disk that fails costs the file, never a job.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        self._written = ""
        self._fault = ""

    def __repr__(self) -> str:
        return f"<JobFile {self._path}>"

    async def save(self, jobs: Sequence[PreheatJob]) -> None:
        """Write all jobs, if they changed."""
        text = json.dumps([job.as_json() for job in jobs])
        if self._path is None or text == self._written:
            return
        try:
            await run(replace_file, self._path, text.encode(), mode=0o600)
        except OSError as error:
            if self._fault != str(error):
                log.warning("preheat jobs were not written", error=str(error))
            self._fault = str(error)
        else:
            self._written, self._fault = text, ""

    async def load(self) -> list[PreheatJob]:
        """Return the jobs; none if there is no file, or it cannot be read."""
        if self._path is None:
            return []
        try:
            data = json.loads(await run(self._path.read_bytes))
            return [PreheatJob.from_json(one) for one in data]
        except FileNotFoundError:
            return []
        except (OSError, OCIError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("preheat jobs cannot be read", path=str(self._path), error=repr(error))
            return []
