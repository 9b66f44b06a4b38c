"""Checks that a node can work on this machine: facts are gathered, then judged."""

from spegel_py.host.doctor.examination import examine, warn
from spegel_py.host.doctor.facts import Subject
from spegel_py.host.doctor.findings import Finding, Level
from spegel_py.tools.addresses import local_url

__all__ = ["Finding", "Level", "Subject", "examine", "local_url", "warn"]
