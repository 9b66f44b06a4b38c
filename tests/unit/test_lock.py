"""The image's packages: locked by hash, at the versions that are tested together."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.benchmarks.machine import ROOT
from tests.support import locks

LOCKS = ("requirements.lock", "requirements-build.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name(requirement: str) -> str:
    """Return the normal form of a requirement's name."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("file", LOCKS)
def test_every_package_has_hashes_and_the_version_that_is_tested(file: str) -> None:
    """The lock is out of date otherwise; `make lock` writes it anew."""
    wanted = locks.versions((ROOT / "constraints.txt").read_text())
    assert locks.differences(locks.packages((ROOT / file).read_text()), wanted) == []


def test_the_lock_has_every_dependency() -> None:
    """What the project and its tracing need directly is locked."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["tracing"]]
    assert {name(each) for each in wanted} <= locks.packages((ROOT / LOCKS[0]).read_text()).keys()


def test_the_build_lock_has_every_build_tool() -> None:
    """What pyproject.toml builds the project with is locked too."""
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]]
    assert {name(each) for each in wanted} <= locks.packages((ROOT / LOCKS[1]).read_text()).keys()


@pytest.mark.parametrize("file", LOCKS)
def test_the_lock_names_no_index(file: str) -> None:
    """Where packages come from is up to pip's configuration where the image is built."""
    assert "://" not in (ROOT / file).read_text()


def test_the_image_installs_by_the_locks_alone() -> None:
    """Each step that reaches an index asks for hashes, and none fetches build tools of its own."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    steps = re.findall(
        r"&& (?:build|python3 -m pip --python \S+) (?:install|wheel) .*?(?=&&|\n)", dockerfile
    )
    assert len(steps) == 4
    for step in steps:
        is_hashed = "--require-hashes" in step
        is_local = "--no-index" in step or ("--no-deps" in step and "--no-build-isolation" in step)
        assert is_hashed or is_local, step


H = "0" * 64


def test_a_package_is_read_with_all_its_hashes() -> None:
    """As uv writes it, over several lines."""
    text = (
        f"# a remark\na-b==1.0 \\\n    --hash=sha256:{H} \\\n    --hash=sha256:{'1' * 64}\nc==2\n"
    )
    assert locks.packages(text) == {
        "a-b": locks.Locked("1.0", frozenset({H, "1" * 64})),
        "c": locks.Locked("2", frozenset()),
    }


@pytest.mark.parametrize(
    "line",
    [
        "--index-url x",
        "a>=1",
        "a==1 --hash=md5:0",
        "a @ file:a.whl",
        f"a==1\na==2 --hash=sha256:{H}",
    ],
)
def test_other_lines_are_refused(line: str) -> None:
    """Options, ranges, addresses, weak hashes, and a package that is there twice."""
    with pytest.raises(ValueError, match="no locked package"):
        locks.packages(line)


def test_a_difference_is_named() -> None:
    """Another version, a package that is not tested, and one without hashes."""
    found = locks.packages(f"a==1 --hash=sha256:{H}\nb==1 --hash=sha256:{H}\nc==1\n")
    assert locks.differences(found, {"a": "2", "c": "1"}) == [
        "a==1: 2 is wanted",
        "b==1: none is wanted",
        "c==1: no hashes",
    ]
