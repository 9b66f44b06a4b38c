#!/bin/sh
# Shows spegel-py on a cluster of three in Docker: an image is pulled on one worker, its registry is cut off, and the other worker
# pulls it all the same. Then everything is taken down.
#   deploy/kind/demo.sh [--image REFERENCE] [--keep]
set -eu
cd "$(dirname "$0")/../.."

cluster=spegel-py
namespace=spegel
ours=localhost/spegel-py:demo
image=docker.io/library/alpine:3.20
keep=

usage() {
    echo "usage: deploy/kind/demo.sh [--image REFERENCE] [--keep]"
    echo "  --image  what is pulled (default: $image)"
    echo "  --keep   leave the cluster there; 'kind delete cluster --name $cluster' takes it down"
}
fail() {
    echo "demo.sh: $1" >&2
    exit "${2:-1}"
}

while [ $# -gt 0 ]; do
    case $1 in
    --image)
        [ $# -ge 2 ] || fail "--image needs a reference, such as $image" 2
        image=$2
        shift
        ;;
    --keep) keep=yes ;;
    --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1; see deploy/kind/demo.sh --help" 2 ;;
    esac
    shift
done
case $image in
*.*/* | *:*/* | localhost/*) ;;
*) fail "--image: '$image' does not name its registry; write docker.io/library/$image or the like" 2 ;;
esac
registry=${image%%/*}
[ "$registry" != docker.io ] || registry="registry-1.docker.io"

for program in docker kind kubectl helm; do
    command -v "$program" >/dev/null || fail "$program is needed, and is not there"
done

step() { printf '\n== %s\n' "$1"; }
on() { # on NODE COMMAND...
    node=$1
    shift
    docker exec "$node" "$@"
}
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$keep" ]; then
        echo "the cluster is left there: kind delete cluster --name $cluster"
    else
        step "taking it down"
        kind delete cluster --name "$cluster"
    fi
    exit "$status"
}

step "building the image"
docker build --tag "$ours" .

step "starting three nodes"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
kind create cluster --config deploy/kind/kind.yaml --wait 180s
kind load docker-image "$ours" --name "$cluster"

step "installing the chart"
helm --kube-context "kind-$cluster" upgrade --install spegel-py deploy/helm/spegel-py \
    --namespace "$namespace" --create-namespace \
    --set image.repository="${ours%:*}" --set image.tag="${ours##*:}" --set image.pullPolicy=Never \
    --wait --timeout 180s

first=$cluster-worker
second=$cluster-worker2

step "pulling $image on $first, from its registry"
on "$first" crictl pull "$image"

step "cutting $second off from $registry"
# a name that leads nowhere: the second worker, and nobody else, is refused at once
on "$second" sh -c "echo '127.0.0.1 $registry' >>/etc/hosts"

step "pulling $image on $second, from $first"
began=$(date +%s)
tries=0
until on "$second" crictl pull "$image"; do # what was pulled a moment ago may not be told yet
    tries=$((tries + 1))
    [ "$tries" -lt 10 ] || fail "$second could not pull $image without its registry"
    sleep 1
done
ended=$(date +%s)

step "result"
echo "$second pulled $image in $((ended - began)) s without its registry"
pod=$(kubectl --context "kind-$cluster" --namespace "$namespace" get pods --output name \
    --selector app.kubernetes.io/component=spegel --field-selector "spec.nodeName=$second")
kubectl --context "kind-$cluster" get --raw \
    "/api/v1/namespaces/$namespace/pods/${pod#pod/}:9090/proxy/metrics" | grep '^spegel_served_bytes_total{source="peer"}'
