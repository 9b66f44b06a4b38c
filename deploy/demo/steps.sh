#!/bin/sh
# The demonstration on a cluster that is there: installs the chart, has one node pull an image, cuts the registry off, has the
# other nodes pull the image all the same, and prints where each got it. deploy/kind/demo.sh and `make demo-kubernetes` run this.
#   deploy/demo/steps.sh IMAGE FIRST_NODE OTHER_NODE...
# KUBECTL and HELM are the commands for the cluster, VALUES are arguments for Helm, and CUT_OFF is a command that takes the registry
# away from the node that is its last argument.
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 3 ] || {
    echo "usage: steps.sh IMAGE FIRST_NODE OTHER_NODE..., with KUBECTL, HELM, VALUES and CUT_OFF set" >&2
    exit 2
}
: "${KUBECTL:?}" "${HELM:?}" "${CUT_OFF:?}" "${VALUES:?}"
image=$1
shift
first=$1
namespace=spegel
release=spegel-py

step() { printf '\n== %s\n' "$1"; }
fail() {
    echo "steps.sh: $1" >&2
    exit 1
}
# Its own name: as "kubectl" it would call itself where KUBECTL is "kubectl --context …".
kube() { $KUBECTL "$@"; }

pull() { # pull NODE: run a Pod with the image on it
    sed -e "s|POD|demo-$1|; s|NODE|$1|; s|IMAGE|$image|" deploy/demo/pod.yaml | kube apply --filename - >/dev/null
    kube wait --for=condition=Ready "pod/demo-$1" --timeout=120s >/dev/null || {
        kube get events --field-selector "involvedObject.name=demo-$1" >&2
        fail "the Pod on $1 does not run"
    }
    echo "a Pod of $image runs on $1"
}
from_peers() { # from_peers NODE: bytes that the node's registry got from other nodes
    pod=$(kube --namespace "$namespace" get pods --output name \
        --selector app.kubernetes.io/component=spegel --field-selector "spec.nodeName=$1")
    kube get --raw "/api/v1/namespaces/$namespace/pods/${pod#pod/}:9090/proxy/metrics" |
        awk '$1 == "spegel_served_bytes_total{source=\"peer\"}" { printf "%d", $2 }'
}
took() { # took NODE: how long the kubelet says that the pull took
    kube get events --field-selector "involvedObject.name=demo-$1,reason=Pulled" \
        --output 'jsonpath={.items[0].message}' | sed -n 's/.* in \([0-9.ms]*\) .*/\1/p'
}

step "installing the chart"
# shellcheck disable=SC2086 # lists of words
$HELM upgrade --install "$release" deploy/helm/spegel-py --namespace "$namespace" --create-namespace $VALUES --timeout 180s
kube --namespace "$namespace" rollout status "daemonset/$release" --timeout=180s

step "pulling $image on $first, from its registry"
pull "$first"

shift
step "taking the registry away from $*"
for node in "$@"; do
    $CUT_OFF "$node"
done

step "pulling $image on $*, without the registry"
for node in "$@"; do
    pull "$node"
done

step "result"
printf '%-24s %-12s %10s %16s\n' node from took 'bytes from peers'
for node in "$first" "$@"; do
    bytes=$(from_peers "$node")
    where=registry
    [ "${bytes:-0}" -eq 0 ] || where="other nodes"
    printf '%-24s %-12s %10s %16s\n' "$node" "$where" "$(took "$node")" "${bytes:-0}"
    [ "$node" = "$first" ] || [ "${bytes:-0}" -gt 0 ] || fail "$node got nothing from other nodes"
done
kube delete pods --selector app=spegel-py-demo --namespace default --wait=false >/dev/null
