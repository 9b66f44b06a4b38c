#!/bin/bash
# The first process of a node, in namespaces of its own: node.sh NAME ADDRESS FOLDER.
# node.py starts it and sets the variables CGROUPS, CONTAINERD, DNS and KUBE. It mounts the node's
# disks over the machine's paths. Then it reads names of services from /run/services, one per line, and
# starts them. Only SIGKILL ends it, and the whole node with it: a power cut.
# It is written for bash, because bash reaps orphans even while it reads.
set -eu
name=$1 address=$2 folder=$3
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

echo "$name" >/proc/sys/kernel/hostname

# Let go of other tests' network namespaces: their removal would wait until this node ends.
umount --lazy --recursive /run/netns 2>/dev/null || true

# /sys shows this network namespace, and the cgroups as this cgroup namespace has them.
umount --lazy /sys/fs/cgroup
umount --lazy /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for hierarchy in $CGROUPS; do
    at=/sys/fs/cgroup/${hierarchy#name=}
    mkdir "$at"
    case $hierarchy in
    name=*) mount -t cgroup -o "none,$hierarchy" cgroup "$at" ;;
    *) mount -t cgroup -o "$hierarchy" cgroup "$at" ;;
    esac
done

# The kubelet would write these values for the whole machine. It finds them in files instead and
# writes nothing.
mkdir -p "$folder/sysctl"
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    key=${pair%=*}
    [ -e "/proc/sys/$key" ] || continue
    echo "${pair#*=}" >"$folder/sysctl/${key//\//.}"
    mount --bind "$folder/sysctl/${key//\//.}" "/proc/sys/$key"
done
# These two belong to the network namespace.
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet

# New files in these folders are written to the node's own disk, not to the machine's.
for path in etc opt var/lib; do
    mkdir -p "$folder/overlay/$path/upper" "$folder/overlay/$path/work"
    mount -t overlay -o "lowerdir=/$path,upperdir=$folder/overlay/$path/upper,workdir=$folder/overlay/$path/work" overlay "/$path"
done
for path in etc/containerd etc/cni var/lib/containerd var/lib/kubelet var/lib/cni var/lib/spegel var/log; do
    mkdir -p "$folder/$path" "/$path"
    mount --bind "$folder/$path" "/$path"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/containerd /run/netns /run/lock /var/log/pods /var/log/containers
rm -f /etc/resolv.conf
echo "nameserver $DNS" >/etc/resolv.conf
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >/etc/hosts
# A pod that mounts a host folder with HostToContainer sees later mounts only if / is shared.
mount --make-rshared /

start() { # start LOG COMMAND...
    local log=/var/log/$1.log
    shift
    "$@" </dev/null >>"$log" 2>&1 3>&- &
}

mkfifo /run/services.new
exec 3<>/run/services.new
mv /run/services.new /run/services
while read -r service <&3; do
    case $service in
    containerd) # its own shim, if it has one, comes before the installed one
        PATH=${CONTAINERD%/*}:$PATH start containerd "$CONTAINERD"
        ;;
    kubelet)
        start kubelet "$KUBE" kubelet --config "$folder/kubelet.json" --kubeconfig "$folder/kubelet.kubeconfig" \
            --hostname-override "$name" --node-ip "$address" --cert-dir /var/lib/kubelet/pki --v=2
        ;;
    kube-proxy)
        start kube-proxy "$KUBE" kube-proxy --config "$folder/kube-proxy.json" --hostname-override "$name"
        ;;
    *) echo "no service $service" >&2 ;;
    esac
done
