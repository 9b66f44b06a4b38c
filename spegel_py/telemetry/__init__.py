"""Logs, metrics and records of pulls, and the spans of requests."""
