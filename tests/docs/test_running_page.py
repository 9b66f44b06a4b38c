"""The page about the programs beside `spegel-py` agrees with the packages that are installed."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

from spegel_py.config import Config

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "running.md").read_text()


def needed(name: str = "spegel-py") -> dict[str, Distribution]:
    """Return the distribution and all that it needs, without extras, by their names."""
    installed = {_name(one.metadata["Name"]): one for one in distributions()}
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here in found or here not in installed:
            continue
        found[here] = installed[here]
        needs = (text for text in installed[here].requires or () if "extra ==" not in text)
        waiting += [_name(re.split(r"[ ;<>=!~\[(]", text)[0]) for text in needs]
    return found


def _name(text: str) -> str:
    return text.lower().replace("_", "-")


def _programs(one: Distribution) -> set[str]:
    names = {entry.name for entry in one.entry_points if entry.group == "console_scripts"}
    return names | {file.name for file in one.files or () if "/bin/" in str(file)}


def test_every_package_with_programs_is_named() -> None:
    """Their number is the page's, roughly; the demos are those of libp2p."""
    programs = {name: found for name, one in needed().items() if (found := _programs(one))}
    assert programs.pop("spegel-py") == {"spegel-py"}
    section = PAGE.partition("## Programs")[2]
    assert {name for name in programs if f"`{name}`" not in section} == set()
    total = sum(len(found) for found in programs.values())
    said = int(re.search(r"About (\d+) others", section)[1])  # type: ignore[index]
    assert abs(total - said) <= 10
    assert {"chat-demo", "echo-demo", "ping-demo"} <= programs["libp2p"]


def test_ports_are_the_defaults() -> None:
    """Each is named with its flag."""
    config = Config()
    for flag, address in (
        ("--registry-addr", config.registry_addr),
        ("--router-addr", config.router_addr),
        ("--metrics-addr", config.metrics_addr),
    ):
        assert f"| TCP {address.removeprefix(':')} | `{flag}` |" in PAGE
