#!/bin/sh
# Shows spegel-py on a cluster of three in Docker, by the steps of deploy/demo/steps.sh: an image is pulled on one worker, its registry
# is cut off, and the other worker pulls it all the same. Then everything is taken down.
#   deploy/kind/demo.sh [--image REFERENCE] [--keep]
set -eu
cd "$(dirname "$0")/../.."

cluster=spegel-py
ours=localhost/spegel-py:demo
image=docker.io/library/alpine:3.20
keep=

# How steps.sh takes the registry away from a node: its name leads nowhere there, so that it is refused at once.
if [ "${1:-}" = cut-off ]; then
    exec docker exec "$3" sh -c "echo '127.0.0.1 $2' >>/etc/hosts"
fi

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

KUBECTL="kubectl --context kind-$cluster"
HELM="helm --kube-context kind-$cluster"
VALUES="--set image.repository=${ours%:*} --set image.tag=${ours##*:} --set image.pullPolicy=Never"
CUT_OFF="deploy/kind/demo.sh cut-off $registry"
export KUBECTL HELM VALUES CUT_OFF
deploy/demo/steps.sh "$image" "$cluster-worker" "$cluster-worker2"
