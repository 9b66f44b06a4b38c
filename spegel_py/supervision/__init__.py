"""Supervision of this node: its conditions, their repairs, and the history of both."""
