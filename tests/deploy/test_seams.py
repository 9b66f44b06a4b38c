"""Where the chart meets the program: flags, ports, folders and probes, and what the pages say of
both.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import aiohttp
import pytest
import yaml

from spegel_py import __version__, cli
from spegel_py.config import REGISTRY
from spegel_py.host.cleanup import serve_probe
from tests.deploy.chart import (
    CHART,
    NODE_IP,
    NODE_NAME,
    ROOT,
    SPEGEL_DEFAULTS,
    VERSIONS,
    Helm,
    Manifest,
    Values,
    arguments,
    containers,
    find,
    named,
    parsed,
    pod,
)
from tests.deploy.test_chart import ALL, SETS

pytestmark = pytest.mark.timeout(900)  # the first of them builds Helm

NOT_OF_THE_CHART = {
    "static_bootstrap_peers",  # first peers are those behind the bootstrap Service
    "http_bootstrap_addr",
    "http_bootstrap_url",
    "http_bootstrap_peer",
    "http_bootstrap_cert_dir",
    "oci_layout",  # nodes of a cluster have containerd
    "snapshotter",  # pulled images tell it
    "runtime_addr",  # the chart refuses it beside a node port: see test_chart
    "runtime_token",
    "containerd_registry_config_path",  # mounted where images are guarded: see test_chart
}
"""Flags that the chart does not set, with reasons."""


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_the_program_takes_every_command_line(helm: Helm, values: Values) -> None:
    """A flag that was renamed, or a value that it refuses, fails here and not on every node at
    once.
    """
    found = [each for _, each in containers(helm.template(values))]
    assert len(found) in (1, 4)  # with and without the steps on containerd's configuration
    for container in found:
        parsed(container)


def test_what_the_values_say_arrives(helm: Helm) -> None:
    """Every setting of the file with every option comes out of the program's own parser as it was
    meant.
    """
    manifests = helm.template(ALL)
    registry, configuration = (
        parsed(named(manifests, name)) for name in ("registry", "configuration")
    )
    assert registry["mirrored_registries"] == ("https://docker.io", "http://registry.example:5000")
    assert [each.pattern for each in registry["registry_filters"]] == ALL["spegel"][
        "registryFilters"
    ]
    assert (registry["tag_ttl"], registry["health_timeout"]) == (5400.0, 1.5)
    assert (
        registry["mirror_parallel"],
        registry["verify_blobs"],
        registry["ready_when_alone"],
    ) == (6, "all", None)
    assert (registry["max_upload_rate"], registry["max_transfers"]) == (125_000_000, 64)
    assert (
        registry["dns_bootstrap_domain"]
        == "mirror-of-ours-bootstrap.elsewhere.svc.example.internal."
    )
    assert str(registry["data_dir"]) == "/data"
    assert [each.host for each in configuration["mirrored_registries"]] == [
        "docker.io",
        "registry.example:5000",
    ]
    assert configuration["mirror_targets"] == (
        "http://127.0.0.1:31020",
        f"http://{NODE_IP}:31021",
        "https://cache.example",
    )
    assert (configuration["resolve_tags"], configuration["prepend_existing"]) == (False, "true")
    assert registry["node_name"] == configuration["node_name"] == NODE_NAME


def test_every_setting_of_the_program_can_be_set(helm: Helm) -> None:
    """A flag that is new in the program has to come into the chart, or onto the list of those that
    do not belong.
    """
    given = {each.partition("=")[0] for each in arguments(named(helm.template(ALL), "registry"))}
    assert {setting.flag for setting in REGISTRY if setting.name not in NOT_OF_THE_CHART} <= given


def test_what_is_null_is_left_to_the_program(helm: Helm) -> None:
    """Nothing is passed that the values file does not say, so defaults are the program's."""
    given = {each.partition("=")[0] for each in arguments(named(helm.template({}), "registry"))}
    assert not given & {
        "--verify-blobs",
        "--mirror-resolve-timeout",
        "--max-transfers",
        "--ready-when-alone",
    }


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_variable_is_used(helm: Helm, values: Values) -> None:
    """Each is a part of an argument; the program's own settings are flags, so that one place says
    them.
    """
    for _, container in containers(helm.template(values)):
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert used <= {each["name"] for each in container.get("env", [])}
        assert {each["name"] for each in container.get("env", [])} <= {
            "NODE_IP",
            "NODE_NAME",
            "RUNTIME_CLOSED_AT",  # of `doctor`
            "ZONE",
        }


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_ports_match(helm: Helm, values: Values) -> None:
    """Flags, container ports, Services, probes and containerd's mirrors speak of the same ports."""
    manifests = helm.template(values)
    registry = named(manifests, "registry")
    ports = {each["name"]: each for each in registry["ports"]}
    config = parsed(registry)
    for name in ports:
        assert config[f"{name}_addr"] == f":{ports[name]['containerPort']}"
    assert {"registry", "router", "metrics"} <= ports.keys()
    for service in services(manifests, "spegel"):
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]]["containerPort"] == port["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert (
            registry.get(probe, {"httpGet": {"port": "registry"}})["httpGet"]["port"] == "registry"
        )


def services(manifests: list[Manifest], component: str) -> list[Manifest]:
    """Return the Services of these pods."""
    found = [each for each in manifests if each["kind"] == "Service"]
    return [
        each
        for each in found
        if each["spec"]["selector"]["app.kubernetes.io/component"] == component
    ]


@pytest.mark.parametrize(
    "name",
    ["nothing", "every option", "no node port", "the node port alone", "a door for the runtime"],
)
def test_containerd_is_sent_to_ports_that_are_open(helm: Helm, name: str) -> None:
    """Each mirror is the pod's host port, or the Service's node port."""
    alone = {"service": {"registry": {"usePreferSameNodeTrafficDistribution": True}}}
    manifests = helm.template(SETS.get(name, alone))
    targets = parsed(named(manifests, "configuration"))["mirror_targets"]
    ports = [
        each["hostPort"] for each in named(manifests, "registry")["ports"] if "hostPort" in each
    ]
    nodes = [
        each["spec"]["ports"][0]["nodePort"]
        for each in services(manifests, "spegel")
        if each["spec"].get("type") == "NodePort"
    ]
    opened = [*ports, *nodes]
    assert opened
    assert [
        int(target.rpartition(":")[2]) for target in targets if "cache.example" not in target
    ] == opened


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_pods_are_found(helm: Helm, values: Values) -> None:
    """Every Service, monitor, policy and DaemonSet selects labels that are there."""
    manifests = helm.template(values)
    pods = [
        each["spec"]["template"]["metadata"]["labels"].items()
        for each in manifests
        if each["kind"] == "DaemonSet"
    ]
    for manifest in manifests:
        match manifest["kind"]:
            case "Service":
                wanted, among = manifest["spec"]["selector"], pods
            case "DaemonSet":
                wanted, among = manifest["spec"]["selector"]["matchLabels"], pods
            case "NetworkPolicy":
                wanted, among = manifest["spec"]["podSelector"]["matchLabels"], pods
            case "ServiceMonitor":
                wanted = manifest["spec"]["selector"]["matchLabels"]
                among = [
                    each["metadata"]["labels"].items()
                    for each in manifests
                    if each["kind"] == "Service"
                ]
            case _:
                continue
        assert len([labels for labels in among if wanted.items() <= labels]) == 1, manifest[
            "metadata"
        ]["name"]


@pytest.mark.parametrize("values", [SETS["nothing"], ALL], ids=["nothing", "every option"])
def test_the_bootstrap_service_is_the_name_that_nodes_ask(helm: Helm, values: Values) -> None:
    """It is headless, and names pods that are not ready: they become so by finding each other."""
    manifests = helm.template(values)
    name, namespace, *_ = parsed(named(manifests, "registry"))["dns_bootstrap_domain"].split(".")
    service = find(manifests, "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == (
        "None",
        True,
    )


async def test_the_clean_up_waits_for_what_it_serves(helm: Helm) -> None:
    """The DaemonSet asked for is the one that cleans up, the account may see it, and its Pods
    answer their probe.
    """
    manifests = helm.template(ALL)
    namespace, name = parsed(named(manifests, "cleanup-wait"))["daemonset"]
    daemonset = find(manifests, "DaemonSet", name)
    assert daemonset["metadata"]["namespace"] == namespace
    assert pod(find(manifests, "Job", f"{name}-wait"))["serviceAccountName"] == name
    assert find(manifests, "ServiceAccount", name)["metadata"]["namespace"] == namespace
    (subject,) = find(manifests, "RoleBinding", name)["subjects"]
    assert (subject["name"], subject["namespace"]) == (name, namespace)
    assert (
        find(manifests, "RoleBinding", name)["roleRef"]["name"]
        == find(manifests, "Role", name)["metadata"]["name"]
    )
    rules = find(manifests, "Role", name)["rules"]
    assert [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
        (["daemonsets"], ["get"], [name]),
        (["pods"], ["list"], None),
    ]
    cleanup = named(manifests, "cleanup")
    port = cleanup["ports"][0]["containerPort"]
    assert parsed(cleanup)["addr"] == f":{port}"
    assert parsed(cleanup)["linger"] < pod(daemonset)["terminationGracePeriodSeconds"]
    configuration = named(manifests, "configuration")
    assert (
        parsed(cleanup)["containerd_registry_config_path"]
        == (parsed(configuration)["containerd_registry_config_path"])
    )
    path = cleanup["readinessProbe"]["httpGet"]["path"]
    async with (
        serve_probe("127.0.0.1:0") as served,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{served}{path}") as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_folder_that_a_flag_names_is_mounted(helm: Helm, values: Values) -> None:
    """At the same path as on the node, but for the data, whose path in the container is its own.
    A node reads the registries' files only where it guards images.
    """
    for spec, container in containers(helm.template(values)):
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        mounts = {
            each["mountPath"]: volumes[each["name"]] for each in container.get("volumeMounts", [])
        }
        given = parsed(container)
        folders = [
            given.get(name)
            for name in ("containerd_registry_config_path", "containerd_content_path")
            if name != "containerd_registry_config_path" or given.get("private_images") != "off"
        ]
        folders += [given["containerd_sock"].parent] if given.get("containerd_sock") else []
        for folder in filter(None, folders):
            assert mounts[str(folder)]["hostPath"]["path"] == str(folder)
        if given.get("data_dir"):
            assert mounts[str(given["data_dir"])]["name"] == "spegel-data"
        assert len(mounts) == len(container.get("volumeMounts", []))


# Pages

GUIDES = ROOT / "docs" / "guides"
PAGES = [
    ROOT / "README.md",
    GUIDES / "kubernetes.md",
    GUIDES / "host.md",
    GUIDES / "troubleshooting.md",
    CHART / "templates" / "NOTES.txt",
]


def test_pages_set_values_that_are_there() -> None:
    """Each `--set` and each value named in code is one that the chart takes."""
    text = " ".join(page.read_text() for page in PAGES)
    schema = json.loads((CHART / "values.schema.json").read_text())
    named_values = set(re.findall(r"--set ([\w.]+)=", text))
    tops = "|".join(key for key in schema["properties"] if key != "resources")
    named_values |= set(re.findall(rf"`((?:{tops})(?:\.\w+)+)\b", text))
    assert {
        "image.repository",
        "nameOverride",
        "spegel.verifyBlobs",
        "service.registry.nodePort",
    } <= named_values
    for path in named_values:
        below = schema
        for key in path.split("."):
            if "properties" not in below:
                break  # Kubernetes' own from here on
            assert key in below["properties"], path
            below = below["properties"][key]


@pytest.mark.parametrize("name", ["kubernetes.md", "migration.md"])
def test_the_command_that_takes_over_spegels_release(helm: Helm, name: str) -> None:
    """As it stands on the page, with Spegel's values file: the DaemonSet keeps Spegel's name."""
    [block] = re.findall(
        r"(?m)^```\n(helm upgrade spegel .*\n(?: .*\n)*)```", (GUIDES / name).read_text()
    )
    block = block.replace("your-values.yaml", str(SPEGEL_DEFAULTS))
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:2] == ["helm", "upgrade"]
    done = subprocess.run(
        [helm.program, "template", *words[2:], f"--kube-version={VERSIONS[0]}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    daemonset = find(list(filter(None, yaml.safe_load_all(done.stdout))), "DaemonSet", "spegel")
    [container] = pod(daemonset)["containers"]
    assert container["image"] == f"registry.example/spegel-py:{__version__}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_give_commands_that_the_program_takes(page: Path) -> None:
    """Those for people on a node or in a pod; placeholders of the template count as a folder."""
    text = page.read_text().replace("{{ .Values.spegel.persistence.path }}", "/data")
    commands = re.findall(r"spegel-py ((?:alerts|cleanup|doctor|status)\b[^`\n).,]*)", text)
    assert commands
    for command in commands:
        given = shlex.split(command, comments=True)
        assert callable(cli._parser(given).parse_args(given).run)
