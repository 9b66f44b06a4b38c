"""The kind demonstration, as far as it can be had without Docker: its arguments, its steps, and
what they name.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import CHART, ROOT, Helm, containers, find, load, merged, nested, pod
from tests.deploy.test_monitoring import EXPORTED
from tests.support.containerd import CONTAINERD

FOLDER = ROOT / "deploy" / "kind"
STEPS = ROOT / "deploy" / "demo" / "steps.sh"
CLUSTER = yaml.safe_load((FOLDER / "kind.yaml").read_text())
IMAGE = "docker.io/library/alpine:3.20"

STAND_IN = """\
#!/bin/sh
echo "$(basename "$0") $*" >>"$LOG"
case "$(basename "$0") $*" in
*"$FAILS"*) exit 7 ;;
*apply*) cat >>"$LOG.manifests" && echo --- >>"$LOG.manifests" ;;
*"get pods"*worker) echo pod/spegel-py-first ;;
*"get pods"*) echo pod/spegel-py-other ;;
*"get --raw"*first*) echo 'spegel_served_bytes_total{source="peer"} 0' ;;
*"get --raw"*) echo "spegel_served_bytes_total{source=\\"peer\\"} $BYTES" ;;
*"get events"*Pulled*) \\
    echo 'Successfully pulled image "alpine" in 812ms (813ms including waiting).' ;;
esac
"""
"""Takes the place of docker, kind, kubectl and helm: records its arguments, and fails where it is
told to.
"""


def run(
    folder: Path, *command: str, fails: str = "nothing", size: str = "3.6e+06"
) -> tuple[int, str, list[str]]:
    """Run a script with stand-ins; return its status, its output, and the commands that it gave.

    Args: folder: A folder for the stand-ins and their log. command: The script and its arguments.
    fails: A part of the command that is to fail. size: Bytes that every other node than the first
    got from its peers, as Prometheus writes a number.
    """
    log = folder / "log"
    for program in ("docker", "kind", "kubectl", "helm", "cut-off"):
        file = folder / program
        file.write_text(STAND_IN)
        file.chmod(0o755)
    own = {"KUBECTL": "kubectl", "HELM": "helm", "VALUES": "--set a=b", "CUT_OFF": "cut-off"}
    done = subprocess.run(
        command,
        env=os.environ
        | (own if command[0] == str(STEPS) else {})
        | {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(log), "FAILS": fails, "BYTES": size},
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        done.returncode,
        done.stdout + done.stderr,
        log.read_text().splitlines() if log.exists() else [],
    )


def demo(
    folder: Path, *arguments: str, fails: str = "nothing", size: str = "3.6e+06"
) -> tuple[int, str, list[str]]:
    """Run the demonstration on kind with stand-ins, as `run` does."""
    return run(folder, str(FOLDER / "demo.sh"), *arguments, fails=fails, size=size)


def test_it_goes_through_its_steps_and_takes_all_of_it_down(tmp_path: Path) -> None:
    """Built and loaded, installed, pulled on one worker, cut off, pulled on the other, printed,
    torn down.
    """
    status, output, commands = demo(tmp_path)
    kubectl = "kubectl --context kind-spegel-py"
    looks = [
        f"{kubectl} --namespace spegel get pods",
        f"{kubectl} get --raw",
        f"{kubectl} get events",
    ]
    order = [
        "docker build --tag localhost/spegel-py:demo .",
        "kind create cluster --config deploy/kind/kind.yaml",
        "kind load docker-image localhost/spegel-py:demo",
        "helm --kube-context kind-spegel-py upgrade --install spegel-py deploy/helm/spegel-py",
        f"{kubectl} --namespace spegel rollout status daemonset/spegel-py",
        f"{kubectl} apply",
        f"{kubectl} wait --for=condition=Ready pod/demo-spegel-py-worker ",
        "docker exec spegel-py-worker2 sh -c echo '127.0.0.1 registry-1.docker.io' >>/etc/hosts",
        f"{kubectl} apply",
        f"{kubectl} wait --for=condition=Ready pod/demo-spegel-py-worker2 ",
        *looks,
        *looks,
        f"{kubectl} delete pods --selector app=spegel-py-demo",
        "kind delete cluster --name spegel-py",
    ]
    assert len(commands) == len(order)
    for command, beginning in zip(commands, order, strict=True):
        assert command.startswith(beginning)
    assert status == 0
    rows = [line.split() for line in output.splitlines()]
    assert ["spegel-py-worker", "registry", "812ms", "0"] in rows
    assert ["spegel-py-worker2", "other", "nodes", "812ms", "3600000"] in rows
    pods = [each for each in yaml.safe_load_all((tmp_path / "log.manifests").read_text()) if each]
    assert [each["spec"]["nodeSelector"]["kubernetes.io/hostname"] for each in pods] == [
        "spegel-py-worker",
        "spegel-py-worker2",
    ]
    assert [each["metadata"]["labels"]["app"] for each in pods] == ["spegel-py-demo"] * 2
    assert [each["spec"]["containers"][0]["image"] for each in pods] == [IMAGE] * 2


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ("kind create", 7),
        ("kind load", 7),
        ("upgrade --install", 7),
        ("rollout status", 7),
        ("docker exec", 7),
        ("pod/demo-spegel-py-worker2", 1),
    ],
)
def test_a_step_that_fails_leaves_no_cluster(tmp_path: Path, step: str, status: int) -> None:
    """The script ends with the step's status, and nothing is left. A Pod that does not run is named
    with its events.
    """
    found, output, commands = demo(tmp_path, fails=step)
    assert found == status
    assert commands[-1] == "kind delete cluster --name spegel-py"
    if status == 7:
        assert step in commands[-2]
    else:
        assert "get events" in commands[-2]
        assert "the Pod on spegel-py-worker2 does not run" in output


def test_a_node_that_got_nothing_from_its_peers_is_a_failure(tmp_path: Path) -> None:
    """The demonstration shows nothing then, and says so."""
    status, output, commands = demo(tmp_path, size="0")
    assert status == 1
    assert "spegel-py-worker2 got nothing from other nodes" in output
    assert commands[-1] == "kind delete cluster --name spegel-py"


def test_the_registry_is_taken_from_every_other_node(tmp_path: Path) -> None:
    """After the first node has the image, and before another node pulls it."""
    status, _, commands = run(tmp_path, str(STEPS), IMAGE, "a-worker", "b", "c")
    assert status == 0
    order = [each for each in commands if each.startswith("cut-off") or " wait " in f"{each} "]
    assert [each.split(" --timeout")[0] for each in order] == [
        "kubectl wait --for=condition=Ready pod/demo-a-worker",
        "cut-off b",
        "cut-off c",
        "kubectl wait --for=condition=Ready pod/demo-b",
        "kubectl wait --for=condition=Ready pod/demo-c",
    ]


def test_the_steps_need_two_nodes(tmp_path: Path) -> None:
    """Fewer arguments are an error that says how the script is used."""
    status, output, commands = run(tmp_path, str(STEPS), IMAGE, "a-worker")
    assert (status, commands) == (2, [])
    assert output.startswith("usage: steps.sh IMAGE FIRST_NODE OTHER_NODE...")


def test_the_cluster_is_kept_if_so_asked(tmp_path: Path) -> None:
    """And it says how to take it down."""
    status, output, commands = demo(tmp_path, "--keep")
    assert (status, [each for each in commands if "delete cluster" in each]) == (0, [])
    assert "kind delete cluster --name spegel-py" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--imag", "x"], "unknown argument --imag"),
        (["--image"], "needs a reference"),
        (["--image", "a:1"], "'a:1'"),
    ],
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
    (question,) = re.findall(r'"(\w+)\{(\w+)=\\"peer\\"\}"', STEPS.read_text())
    assert question[1] in EXPORTED[question[0]]


@pytest.mark.timeout(900)
def test_the_chart_takes_what_the_script_sets(helm: Helm, tmp_path: Path) -> None:
    """The pods run the image that was loaded, on names that the script asks for."""
    (install,) = [each for each in demo(tmp_path)[2] if each.startswith("helm")]
    words = install.split()
    values: dict[str, Any] = {}
    for path, value in (
        words[at + 1].split("=") for at, word in enumerate(words) if word == "--set"
    ):
        values = merged(values, nested(path.split("."), value))
    manifests = helm.template(values, release=words[words.index("--install") + 1])
    images = {container["image"] for _, container in containers(manifests)}
    assert images == {"localhost/spegel-py:demo"}
    labels = find(manifests, "DaemonSet", "spegel-py")["spec"]["template"]["metadata"]["labels"]
    (selector,) = re.findall(r"--selector (app\.kubernetes\.io/\S+)", STEPS.read_text())
    assert selector in [f"{name}={value}" for name, value in labels.items()]
    (registry,) = pod(find(manifests, "DaemonSet", "spegel-py"))["containers"]
    assert {"containerPort": 9090, "name": "metrics"} in registry["ports"]
    assert ":9090/proxy/metrics" in STEPS.read_text()


@pytest.mark.containerd
@pytest.mark.parametrize("version", [2, 3])
def test_containerd_reads_kinds_patches_as_meant(tmp_path: Path, version: int) -> None:
    """Whichever version reads the file: mirrors from the folder that the chart writes, and layers
    kept.
    """
    known = subprocess.run(
        [CONTAINERD, "--version"], capture_output=True, text=True, check=True
    ).stdout
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
