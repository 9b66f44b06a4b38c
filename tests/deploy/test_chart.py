"""The chart by itself: every value has an effect, Kubernetes takes every manifest, and mistakes are
named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from spegel_py import __version__
from tests.deploy.chart import (
    APIS,
    CHART,
    EVERY_OPTION,
    SPEGEL_DEFAULTS,
    VERSIONS,
    Helm,
    HelmError,
    Values,
    containers,
    find,
    load,
    merged,
    named,
    nested,
    parsed,
    pod,
)

pytestmark = pytest.mark.timeout(900)  # the first of them builds Helm

DEFAULTS = load(CHART / "values.yaml")
ALL = load(EVERY_OPTION)

SETS: dict[str, Values] = {
    "nothing": {},
    "every option": ALL,
    "Spegel's defaults": load(SPEGEL_DEFAULTS),
    "a sidecar's dashboard": nested(
        ("grafanaDashboard",), {"enabled": True, "labels": {"grafana_dashboard": "1"}}
    ),
    "no node port": nested(("service", "registry", "nodePort"), 0),
    "a door for the runtime": {
        "runtime": {"token": True, "port": 5002},
        "service": {"registry": {"nodePort": 0}},
    },
    "guarded images": {
        "runtime": {"token": True},
        "service": {"registry": {"nodePort": 0}},
        "spegel": {"privateImages": "guard", "publicRegistries": ["docker.io"]},
    },
    "nothing mounted that may be left out": {
        "spegel": {
            "containerdContentPath": "",
            "containerdMirrorAdd": False,
            "persistence": {"enabled": False},
        }
    },
}
"""Values files by what they are."""

ALTERNATIVES = {
    ("image", "digest"): "sha256:" + "0" * 64,
    ("service", "registry", "usePreferSameNodeTrafficDistribution"): True,
    ("spegel", "persistence", "enabled"): False,
    ("spegel", "containerdMirrorAdd"): False,
    ("grafanaDashboard", "grafanaOperator", "matchLabels"): {"dashboards": "other"},
    ("runtime", "token"): True,
    ("runtime", "port"): 5002,
}
"""Values that would hide others in the file with every option, or that must be there: what they are
compared with.
"""


NO_NODE_PORT = nested(("service", "registry", "nodePort"), 0)
BESIDE = {
    ("nameOverride",): {"fullnameOverride": ""},
    ("runtime", "token"): NO_NODE_PORT,
    ("runtime", "port"): NO_NODE_PORT,
}
"""What the file with every option must not have beside a value, for it to have an effect."""

OPAQUE = {
    ("nodeSelector",),
    ("cleanup", "nodeSelector"),
    ("securityContext",),
    ("resources",),
    ("verticalPodAutoscaler", "updatePolicy"),
}
"""Values that are Kubernetes' own, as a whole."""


def leaves(values: Values, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that is no mapping of named values, with its path."""
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and here not in OPAQUE and value:
            yield from leaves(value, here)
        else:
            yield here, value


LEAVES = {".".join(path): (path, default) for path, default in leaves(DEFAULTS)}


def at(values: Values, path: tuple[str, ...]) -> Any:
    value: Any = values
    for key in path:
        value = value[key]
    return value


def test_the_chart_installs_this_version() -> None:
    """The image's tag is the chart's appVersion where the values say none."""
    assert load(CHART / "Chart.yaml")["appVersion"] == __version__


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_lint_finds_nothing(helm: Helm, values: Values) -> None:
    """Warnings count, too."""
    assert "0 chart(s) failed" in helm.lint(values)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_kubernetes_takes_every_manifest(helm: Helm, values: Values, version: str) -> None:
    """Its own kinds are held against that version's schemas, strictly: an unknown field is an
    error.
    """
    known = [
        each for each in helm.template(values, version=version) if each["apiVersion"] not in APIS
    ]
    assert {"DaemonSet", "Service", "ServiceAccount"} <= {each["kind"] for each in known}
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_what_only_newer_kubernetes_has_is_checked_there(helm: Helm) -> None:
    """An older one would refuse the Service, and the chart says so before."""
    values = nested(("service", "registry", "usePreferSameNodeTrafficDistribution"), True)
    manifests = helm.template(values, version="1.34")
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    assert (
        find(manifests, "Service", "mirror-spegel-py-registry")["spec"]["trafficDistribution"]
        == "PreferSameNode"
    )
    with pytest.raises(
        HelmError, match=r"usePreferSameNodeTrafficDistribution needs Kubernetes 1\.34"
    ):
        helm.template(values, version="1.33")


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_no_manifest_is_there_twice(helm: Helm, values: Values) -> None:
    """Two of a kind with one name would be one."""
    names = [(each["kind"], each["metadata"]["name"]) for each in helm.template(values)]
    assert len(names) == len(set(names))


def test_the_file_with_every_option_has_every_option() -> None:
    """A value that is new in the chart has to come into the file, and so under the tests."""
    for path, default in LEAVES.values():
        value = ALTERNATIVES.get(path, at(ALL, path))
        assert value != default, f"{'.'.join(path)} is as by default"


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_an_effect(helm: Helm, path: str) -> None:
    """With every option set, one that is put back to its default changes the manifests."""
    keys, default = LEAVES[path]
    base = merged(ALL, BESIDE.get(keys, {}))
    changed = replaced(base, keys, ALTERNATIVES.get(keys, default))
    assert helm.template(base) != helm.template(changed)


def replaced(values: Values, path: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return the values with this one instead of what is there."""
    key, *rest = path
    return {**values, key: replaced(values[key], tuple(rest), value) if rest else value}


def test_the_schema_knows_every_value_and_says_what_it_is() -> None:
    """A values file is checked against the schema, and people read what a value means there."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path, _ in LEAVES.values():
        below = schema
        for key in path:
            assert below["additionalProperties"] is False
            below = below["properties"][key]
        assert below["description"], path


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"spegel": {"mirroredRegistrys": []}}, "mirroredRegistrys"),
        ({"service": {"registry": {"hostPort": 70000}}}, "hostPort"),
        ({"spegel": {"containerdSock": "/containerd.sock"}}, "containerdSock"),
        ({"spegel": {"tagTtl": "1 day"}}, "tagTtl"),
        ({"spegel": {"verifyBlobs": "some"}}, "verifyBlobs"),
        ({"grafanaDashboard": {"mode": "Operator"}}, "mode"),
        ({"grafanaDashboard": {"enabled": True, "mode": "GrafanaOperator"}}, "matchLabels"),
        ({"runtime": {"token": True}}, "set service.registry.nodePort to 0"),
        ({"runtime": {"port": 5002}}, "set service.registry.nodePort to 0"),
        (
            {**NO_NODE_PORT, "runtime": {"token": True}, "spegel": {"containerdMirrorAdd": False}},
            "set spegel.containerdMirrorAdd to true",
        ),
        (
            {
                **NO_NODE_PORT,
                "runtime": {"token": True},
                "spegel": {"persistence": {"enabled": False}},
            },
            "set spegel.persistence.enabled to true",
        ),
        ({"spegel": {"privateImages": "guard"}}, "set runtime.token to true"),
        (
            {
                **NO_NODE_PORT,
                "runtime": {"token": True},
                "basicAuthSecretName": "password",
                "spegel": {"privateImages": "guard"},
            },
            "leave basicAuthSecretName out",
        ),
        (
            {
                "runtime": {"port": 5002},
                "service": {
                    "registry": {"nodePort": 0, "usePreferSameNodeTrafficDistribution": True}
                },
            },
            "usePreferSameNodeTrafficDistribution to false",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_mistake_is_named(helm: Helm, values: Values, complaint: str) -> None:
    """An unknown key, a bad value and one that is missing end the rendering, with their name."""
    with pytest.raises(HelmError, match=complaint):
        helm.template(values)


def test_containers_have_no_more_rights_than_they_need(helm: Helm) -> None:
    """No way to get any, nothing to write to but what is mounted, and no capability.

    Only the steps on containerd's folder have those that root needs for the files of other users. A
    token of the cluster's is only in the Pod that waits for the clean-up, and that may only look.
    """
    for spec, container in containers(helm.template({})):
        context = container["securityContext"]
        changes_files = container["name"] in ("configuration", "cleanup")
        added = {"add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]} if changes_files else {}
        assert context["capabilities"] == {"drop": ["ALL"]} | added
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (
            False,
            True,
        )
        assert (context.get("seccompProfile") or spec["securityContext"]["seccompProfile"])[
            "type"
        ] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is (container["name"] == "cleanup-wait")
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_a_node_needs_nothing_that_only_its_first_pull_makes(helm: Helm) -> None:
    """containerd 1.7 makes its folder of content with the first pull, which may be that of the
    Pod's own image.
    """
    spec = pod(find(helm.template({}), "DaemonSet", "mirror-spegel-py"))
    kinds = {volume["name"]: volume["hostPath"]["type"] for volume in spec["volumes"]}
    assert kinds.pop("containerd-sock") == "Directory"
    assert set(kinds.values()) == {"DirectoryOrCreate"}


def test_a_hung_process_is_replaced_soon(helm: Helm) -> None:
    """Within 15 s of its last answer it is killed, though each answer may take seconds on a machine
    that is busy.
    """
    (registry,) = pod(find(helm.template({}), "DaemonSet", "mirror-spegel-py"))["containers"]
    probe = registry["livenessProbe"]
    silent = probe["failureThreshold"] * probe["timeoutSeconds"]
    assert probe["periodSeconds"] <= probe["timeoutSeconds"]  # so one probe follows the other
    assert silent >= 9
    assert probe["periodSeconds"] + silent + probe["terminationGracePeriodSeconds"] <= 15


def test_the_clean_up_reaches_nodes_that_the_release_has_left(helm: Helm) -> None:
    """Neither the selector nor the tolerations of the release keep it from a node of Linux."""
    values = {"nodeSelector": {"example.org/pool": "images"}, "tolerations": []}
    spec = pod(find(helm.template(values), "DaemonSet", "mirror-spegel-py-cleanup"))
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert "affinity" not in spec


def test_the_last_line_of_a_failed_program_is_in_the_pods_status(helm: Helm) -> None:
    """So `kubectl describe pod` says what to mend."""
    for _, container in containers(helm.template({})):
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_clean_up_begins_first_and_ends_last(helm: Helm) -> None:
    """Helm deletes hooks in the reverse order, and each node stays locked until the release is
    deleted.
    """
    weights = {
        each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in helm.template({})
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert min(weights, key=lambda kind: weights[kind]) == "DaemonSet"
    assert max(weights, key=lambda kind: weights[kind]) == "Job"
    assert (
        list(weights.values()).count(weights["DaemonSet"])
        == list(weights.values()).count(weights["Job"])
        == 1
    )


def test_one_node_without_power_does_not_keep_helm_from_naming_it(helm: Helm) -> None:
    """Two Pods wait, on different nodes, and the first that fails ends the Job."""
    job = find(helm.template({}), "Job", "mirror-spegel-py-cleanup-wait")["spec"]
    assert (job["parallelism"], job["backoffLimit"]) == (2, 0)
    assert "completions" not in job  # else Kubernetes would start one Pod after the other
    (spread,) = job["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"  # a cluster of one node has to do
    assert (
        spread["labelSelector"]["matchLabels"].items()
        <= job["template"]["metadata"]["labels"].items()
    )
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 0


@pytest.mark.parametrize(("version", "is_field"), [("1.30", False), ("1.31", True)])
def test_the_node_port_prefers_the_same_zone(helm: Helm, version: str, is_field: bool) -> None:
    """By a field where Kubernetes has one, since the annotation before it makes clusters without
    zones warn.
    """
    service = find(helm.template({}, version=version), "Service", "mirror-spegel-py-registry")
    annotation = (
        service["metadata"].get("annotations", {}).get("service.kubernetes.io/topology-mode")
    )
    assert (service["spec"].get("trafficDistribution"), annotation) == (
        ("PreferClose", None) if is_field else (None, "auto")
    )


def test_the_registry_can_write_its_data_alone(helm: Helm) -> None:
    """containerd's folders are mounted for reading; only the step before the start writes one."""
    (registry,) = pod(find(helm.template({}), "DaemonSet", "mirror-spegel-py"))["containers"]
    writable = {mount["name"] for mount in registry["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"spegel-data"}


def test_containerds_socket_is_followed_through_restarts(helm: Helm) -> None:
    """containerd makes a new socket at each start, and a mount of the old one would be dead: the
    folder is mounted.
    """
    values = nested(("spegel", "containerdSock"), "/run/k3s/containerd/containerd.sock")
    spec = pod(find(helm.template(values), "DaemonSet", "mirror-spegel-py"))
    (mount,) = [
        each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "containerd-sock"
    ]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "containerd-sock"]
    assert mount["mountPath"] == volume["hostPath"]["path"] == "/run/k3s/containerd"
    assert (
        mount["mountPropagation"] == "HostToContainer"
    )  # else what containerd unmounts there stays busy


def test_spegels_name_makes_its_release_one_of_ours(helm: Helm) -> None:
    """The DaemonSet's name and selector, which nobody may change, are then those of Spegel's
    release `spegel`.
    """
    manifests = helm.template({"nameOverride": "spegel"}, release="spegel")
    daemonset = find(manifests, "DaemonSet", "spegel")
    assert daemonset["spec"]["selector"]["matchLabels"] == {
        "app.kubernetes.io/component": "spegel",
        "app.kubernetes.io/instance": "spegel",
        "app.kubernetes.io/name": "spegel",
    }
    services = {each["metadata"]["name"] for each in manifests if each["kind"] == "Service"}
    assert services == {"spegel", "spegel-bootstrap", "spegel-registry"}


def test_what_is_copied_from_spegels_defaults_and_cannot_be_meant_is_left_out(helm: Helm) -> None:
    """Spegel's own image would run Spegel, and a Go process's memory would kill ours."""
    spegels = find(helm.template(load(SPEGEL_DEFAULTS)), "DaemonSet", "mirror-spegel-py")
    ours = find(helm.template({}), "DaemonSet", "mirror-spegel-py")
    for key in ("image", "resources"):
        assert pod(spegels)["containers"][0][key] == pod(ours)["containers"][0][key]
    chosen = {"resources": {"requests": {"memory": "128Mi"}, "limits": {"memory": "200Mi"}}}
    limits = pod(find(helm.template(chosen), "DaemonSet", "mirror-spegel-py"))["containers"][0][
        "resources"
    ]["limits"]
    assert limits == {"memory": "200Mi"}


def test_the_vpa_waits_for_its_api(helm: Helm) -> None:
    """As in Spegel's chart: where the cluster has no such API, there is none."""
    values = {"verticalPodAutoscaler": {"enabled": True}}
    assert "VerticalPodAutoscaler" in {each["kind"] for each in helm.template(values)}
    assert "VerticalPodAutoscaler" not in {each["kind"] for each in helm.template(values, apis=())}


def test_the_files_for_grafana_and_prometheus_are_the_charts() -> None:
    """Those below deploy/grafana are links, so there is one of each."""
    for name in ("dashboard.json", "rules.yaml"):
        link = Path(CHART.parents[1] / "grafana" / name)
        assert link.resolve() == CHART / "monitoring" / name


def test_the_dashboard_arrives_whole(helm: Helm) -> None:
    """Indented into a ConfigMap and a GrafanaDashboard, it is the same JSON."""
    whole = json.loads((CHART / "monitoring" / "dashboard.json").read_text())
    sidecar = find(
        helm.template(SETS["a sidecar's dashboard"]), "ConfigMap", "mirror-spegel-py-dashboard"
    )
    operated = find(helm.template(ALL), "GrafanaDashboard", "mirror-of-ours-dashboard")
    assert (
        json.loads(sidecar["data"]["spegel-py.json"])
        == json.loads(operated["spec"]["json"])
        == whole
    )
    rules = find(helm.template(ALL), "PrometheusRule", "mirror-of-ours")
    assert rules["spec"] == yaml.safe_load((CHART / "monitoring" / "rules.yaml").read_text())


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:4318", 4318),
        ("https://collector/v1/traces", 443),
        ("http://collector", 80),
    ],
)
def test_spans_get_through_the_network_policy(helm: Helm, endpoint: str, port: int) -> None:
    """Where nodes may reach each other only, the collector's port is open too; without one nothing
    more is.
    """
    closed = {"networkPolicy": {"enabled": True}}
    [without] = [
        one["spec"]["egress"] for one in helm.template(closed) if one["kind"] == "NetworkPolicy"
    ]
    [given] = [
        one["spec"]["egress"]
        for one in helm.template(closed | {"spegel": {"tracingEndpoint": endpoint}})
        if one["kind"] == "NetworkPolicy"
    ]
    assert given == [*without, {"ports": [{"port": port, "protocol": "TCP"}]}]


def test_only_a_node_that_looks_for_its_cordon_may_read_nodes(helm: Helm) -> None:
    """One verb on one kind, for the one container that looks; by default there is neither."""
    assert not [one for one in helm.template({}) if one["kind"] == "ClusterRole" and _of_nodes(one)]
    manifests = helm.template({"spegel": {"evacuateCordoned": True}})
    [role] = [one for one in manifests if one["kind"] == "ClusterRole" and _of_nodes(one)]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    name = role["metadata"]["name"]
    binding = find(manifests, "ClusterRoleBinding", name)
    daemonset = find(manifests, "DaemonSet", "mirror-spegel-py")
    spec = pod(daemonset)
    assert binding["roleRef"]["name"] == name
    assert [one["name"] for one in binding["subjects"]] == [spec["serviceAccountName"]]
    assert spec["automountServiceAccountToken"] is False
    mounting = [
        one["name"]
        for one in (*spec["initContainers"], *spec["containers"])
        if any(mount["name"] == "kubernetes-api" for mount in one["volumeMounts"])
    ]
    assert mounting == ["registry"]


def _of_nodes(role: Values) -> bool:
    return any("nodes" in rule["resources"] for rule in role["rules"])


@pytest.mark.parametrize(("value", "seconds"), [(None, 30), ("off", 30), ("sole", 50)])
def test_an_evacuation_at_the_end_gets_its_time(helm: Helm, value: object, seconds: int) -> None:
    manifests = helm.template({"spegel": {"evacuateOnStop": value}})
    daemonset = find(manifests, "DaemonSet", "mirror-spegel-py")
    assert pod(daemonset)["terminationGracePeriodSeconds"] == seconds


def test_the_runtimes_port_is_open_to_its_own_node_alone(helm: Helm) -> None:
    """containerd is sent there with the token; the other port is for nodes, and in no host port."""
    manifests = helm.template(SETS["a door for the runtime"])
    registry, configuration = named(manifests, "registry"), named(manifests, "configuration")
    ports = {each["name"]: each for each in registry["ports"]}
    assert ports["runtime"] == {
        "name": "runtime",
        "containerPort": 5002,
        "hostPort": 30020,
        "hostIP": "127.0.0.1",
    }
    assert "hostPort" not in ports["registry"]
    given = parsed(registry)
    assert (given["registry_addr"], given["runtime_addr"]) == (":5000", ":5002")
    assert parsed(configuration)["mirror_targets"] == ("http://127.0.0.1:30020",)
    closed = {each["name"]: each.get("value") for each in registry["env"]}["RUNTIME_CLOSED_AT"]
    assert closed == "http://$(NODE_IP):30020"


def test_the_token_is_where_every_step_looks_for_it(helm: Helm) -> None:
    """The step before the start makes it, the node reads it, the clean-up removes it."""
    manifests = helm.template(SETS["a door for the runtime"])
    for spec, container in containers(manifests):
        if container["name"] not in ("configuration", "registry", "cleanup"):
            continue
        assert str(parsed(container)["runtime_token"]) == "/var/lib/spegel/runtime-token"
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "spegel-data"]
        assert mount == {"name": "spegel-data", "mountPath": "/var/lib/spegel"}
        [volume] = [one for one in spec["volumes"] if one["name"] == "spegel-data"]
        assert volume["hostPath"]["path"] == "/var/lib/spegel"
    for _, container in containers(helm.template({})):
        assert not [each for each in container["args"] if each.startswith("--runtime-")]


def test_a_node_that_guards_images_reads_its_registries_files(helm: Helm) -> None:
    """containerd's folder is mounted for reading, and only there."""
    registry = named(helm.template(SETS["guarded images"]), "registry")
    given = parsed(registry)
    assert (given["private_images"], given["public_registries"]) == ("guard", ("docker.io",))
    folder = str(given["containerd_registry_config_path"])
    mounts = {one["mountPath"]: one for one in registry["volumeMounts"]}
    assert mounts[folder]["readOnly"] is True
    unguarded = named(helm.template(SETS["a door for the runtime"]), "registry")
    assert folder not in {one["mountPath"] for one in unguarded["volumeMounts"]}
