"""The kind demonstration, as far as it can be had without Docker: its arguments, its steps, and what they name."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containerd import CONTAINERD
from tests.deploy.chart import CHART, ROOT, Helm, containers, find, load, merged, nested, pod
from tests.deploy.test_monitoring import EXPORTED

FOLDER = ROOT / "deploy" / "kind"
CLUSTER = yaml.safe_load((FOLDER / "kind.yaml").read_text())

STAND_IN = """\
#!/bin/sh
echo "$(basename "$0") $*" >>"$LOG"
case "$(basename "$0") $*" in
*"$FAILS"*) exit 7 ;;
*"get pods"*) echo pod/spegel-py-x7k2p ;;
*"get --raw"*) echo 'spegel_served_bytes_total{source="peer"} 3.6e+06' ;;
esac
"""
"""Takes the place of docker, kind, kubectl and helm: notes what it is asked, and fails where it is told to."""


def demo(folder: Path, *arguments: str, fails: str = "nothing") -> tuple[int, str, list[str]]:
    """Run the script with stand-ins; return its status, what it wrote, and the commands it gave."""
    log = folder / "log"
    for program in ("docker", "kind", "kubectl", "helm"):
        file = folder / program
        file.write_text(STAND_IN)
        file.chmod(0o755)
    done = subprocess.run(
        [FOLDER / "demo.sh", *arguments],
        env=os.environ | {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(log), "FAILS": fails},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, log.read_text().splitlines() if log.exists() else []


def test_it_goes_through_its_steps_and_takes_all_of_it_down(tmp_path: Path) -> None:
    """Built and loaded, installed, pulled on one worker, cut off, pulled on the other, printed, torn down."""
    status, output, commands = demo(tmp_path)
    order = [
        "docker build --tag localhost/spegel-py:demo .",
        "kind create cluster --config deploy/kind/kind.yaml",
        "kind load docker-image localhost/spegel-py:demo",
        "helm --kube-context kind-spegel-py upgrade --install spegel-py deploy/helm/spegel-py",
        "docker exec spegel-py-worker crictl pull docker.io/library/alpine:3.20",
        "docker exec spegel-py-worker2 sh -c echo '127.0.0.1 registry-1.docker.io' >>/etc/hosts",
        "docker exec spegel-py-worker2 crictl pull docker.io/library/alpine:3.20",
        "kubectl --context kind-spegel-py --namespace spegel get pods",
        "kubectl --context kind-spegel-py get --raw",
        "kind delete cluster --name spegel-py",
    ]
    assert len(commands) == len(order)
    for command, beginning in zip(commands, order, strict=True):
        assert command.startswith(beginning)
    assert status == 0
    assert 'spegel_served_bytes_total{source="peer"} 3.6e+06' in output


@pytest.mark.parametrize("step", ["kind create", "kind load", "upgrade --install", "spegel-py-worker crictl"])
def test_a_step_that_fails_leaves_no_cluster(tmp_path: Path, step: str) -> None:
    """The script ends with the step's status, and nothing is left."""
    status, _, commands = demo(tmp_path, fails=step)
    assert status == 7
    assert step in commands[-2]
    assert commands[-1] == "kind delete cluster --name spegel-py"


def test_the_cluster_is_kept_if_so_asked(tmp_path: Path) -> None:
    """And it says how to take it down."""
    status, output, commands = demo(tmp_path, "--keep")
    assert (status, [each for each in commands if "delete" in each]) == (0, [])
    assert "kind delete cluster --name spegel-py" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--imag", "x"], "unknown argument --imag"), (["--image"], "needs a reference"), (["--image", "a:1"], "'a:1'")],
    ids=["unknown", "missing", "no registry"],
)
def test_a_wrong_argument_is_named_before_anything_is_done(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    """In one line, with exit status 2."""
    status, output, commands = demo(tmp_path, *arguments)
    assert (status, commands) == (2, [])
    assert complaint in output
    assert output.count("\n") == 1


def test_what_the_script_names_is_there() -> None:
    """Its workers and the metric are called so."""
    roles = [node["role"] for node in CLUSTER["nodes"]]
    assert (CLUSTER["name"], roles) == ("spegel-py", ["control-plane", "worker", "worker"])
    (question,) = re.findall(r"grep '\^(\w+)\{(\w+)=", (FOLDER / "demo.sh").read_text())
    assert question[1] in EXPORTED[question[0]]


@pytest.mark.timeout(900)
def test_the_chart_takes_what_the_script_sets(helm: Helm, tmp_path: Path) -> None:
    """The pods run the image that was loaded, on names that the script asks for."""
    (install,) = [each for each in demo(tmp_path)[2] if each.startswith("helm")]
    words = install.split()
    values: dict[str, Any] = {}
    for path, value in (words[at + 1].split("=") for at, word in enumerate(words) if word == "--set"):
        values = merged(values, nested(path.split("."), value))
    manifests = helm.template(values, release=words[words.index("--install") + 1])
    images = {container["image"] for _, container in containers(manifests)}
    assert images == {"localhost/spegel-py:demo"}
    labels = find(manifests, "DaemonSet", "spegel-py")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "spegel"
    (registry,) = pod(find(manifests, "DaemonSet", "spegel-py"))["containers"]
    assert {"containerPort": 9090, "name": "metrics"} in registry["ports"]


@pytest.mark.containerd
@pytest.mark.parametrize("version", [2, 3])
def test_containerd_reads_kinds_patches_as_meant(tmp_path: Path, version: int) -> None:
    """Whichever version reads the file: mirrors from the folder that the chart writes, and layers kept."""
    known = subprocess.run([CONTAINERD, "--version"], capture_output=True, text=True, check=True).stdout
    is_first = re.search(r" v?1\.", known) is not None
    if is_first and version == 3:
        pytest.skip("containerd 1.x reads no file of version 3")
    file = tmp_path / "config.toml"
    file.write_text("\n".join([f"version = {version}", *CLUSTER["containerdConfigPatches"]]))
    dumped = subprocess.run(
        [CONTAINERD, "--config", file, "config", "dump"], capture_output=True, text=True, check=True
    )
    plugins = tomllib.loads(dumped.stdout)["plugins"]
    images = plugins["io.containerd.grpc.v1.cri" if is_first else "io.containerd.cri.v1.images"]
    discards = (images["containerd"] if is_first else images)["discard_unpacked_layers"]
    folder = load(CHART / "values.yaml")["spegel"]["containerdRegistryConfigPath"]
    assert (images["registry"]["config_path"], discards) == (folder, False)
