"""The values files of systems whose containerd has folders or rules of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.chart import ROOT, Helm, containers, load, named, parsed, pod

pytestmark = pytest.mark.timeout(900)  # the first of them builds Helm

SYSTEMS = ROOT / "deploy" / "systems"
FILES = sorted(SYSTEMS.glob("*.yaml"))
GUIDE = ROOT / "docs" / "guides" / "systems.md"
ENVIRONMENT = ROOT / "deploy" / "systemd" / "environment.example"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_chart_takes_the_file_and_the_guide_names_it(helm: Helm, file: Path) -> None:
    """What comes out is parsed by the program itself."""
    assert "0 chart(s) failed" in helm.lint(load(file))
    found = [each for _, each in containers(helm.template(load(file)))]
    assert found
    for container in found:
        parsed(container)
    assert f"(../../deploy/systems/{file.name})" in GUIDE.read_text()


@pytest.mark.parametrize("name", ["k3s", "rke2"])
def test_rancher_s_containerd_is_found_in_its_folders(helm: Helm, name: str) -> None:
    """Those of k3s are also in the environment of the service."""
    manifests = helm.template(load(SYSTEMS / f"{name}.yaml"))
    registry = parsed(named(manifests, "registry"))
    configuration = parsed(named(manifests, "configuration"))
    agent = Path(f"/var/lib/rancher/{name}/agent")
    assert registry["containerd_sock"] == Path("/run/k3s/containerd/containerd.sock")
    assert registry["containerd_content_path"].is_relative_to(agent / "containerd")
    assert configuration["containerd_registry_config_path"].is_relative_to(agent / "etc")
    assert configuration["prepend_existing"] == "all"
    if name == "k3s":
        text = ENVIRONMENT.read_text()
        assert f"CONTAINERD_SOCK={registry['containerd_sock']}" in text
        assert f"CONTAINERD_CONTENT_PATH={registry['containerd_content_path']}" in text
        folder = configuration["containerd_registry_config_path"]
        assert f"CONTAINERD_REGISTRY_CONFIG_PATH={folder}" in text


def test_talos_keeps_its_own_hosts(helm: Helm) -> None:
    configuration = parsed(named(helm.template(load(SYSTEMS / "talos.yaml")), "configuration"))
    assert configuration["containerd_registry_config_path"] == Path("/etc/cri/conf.d/hosts")
    assert configuration["prepend_existing"] == "all"


def test_nothing_writes_the_folder_of_bottlerocket(helm: Helm) -> None:
    """Its own settings name the mirror."""
    manifests = helm.template(load(SYSTEMS / "bottlerocket.yaml"))
    names = {each["name"] for _, each in containers(manifests)}
    assert "registry" in names
    assert "configuration" not in names


@pytest.mark.parametrize(("name", "kind"), [("bottlerocket", "super_t"), ("selinux", "spc_t")])
def test_every_pod_has_the_type_that_may_use_the_socket(helm: Helm, name: str, kind: str) -> None:
    manifests = helm.template(load(SYSTEMS / f"{name}.yaml"))
    pods = [pod(each) for each in manifests if each["kind"] == "DaemonSet"]
    assert pods
    for each in pods:
        assert each["securityContext"]["seLinuxOptions"]["type"] == kind
