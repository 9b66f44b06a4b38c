"""The tree of errors, as its docstring draws it, is whole."""

from __future__ import annotations

import re

from spegel_py import errors


def test_the_drawn_tree_names_every_error() -> None:
    """An error that is missing in the drawing is not found by a reader."""
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__ or ""))
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SpegelError)
    }
    assert defined - drawn == set()
