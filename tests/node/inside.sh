#!/usr/bin/env bash
# The node: process 1 of network, mount, PID, UTS and IPC namespaces of its own. Whatever ends it, the kernel ends all
# that runs in it, and mounts, interfaces and rules go with the namespaces. At SIGTERM it ends in order.
#
# Takes NODE_DIR and NODE_DEB, as prepare.sh does.
set -euo pipefail
. "$(dirname "$0")/addresses.sh"
S=$NODE_DIR

start() {
    local name=$1
    shift
    "$@" >>"$S/log/$name.log" 2>&1 &
    echo $! >"$S/pid/$name"
}

# -n: else mount(8) makes /run/mount first, which is still the machine's.
mount -n -t tmpfs -o mode=755 tmpfs /run
# The kubelet wants a shared root; the peer group is our own.
mount --make-rshared /
mkdir -p /run/lock
mount -t overlay overlay -o "lowerdir=/var,upperdir=$S/var/upper,workdir=$S/var/work" /var
# The kubelet insists on some sysctls of the whole machine: it writes them, or refuses to start if told not to. It finds
# what it wants in plain files of ours, so it writes nothing.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$S/sysctl/${setting%%=*}
    mkdir -p "${file%/*}"
    echo "${setting##*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done
hostname "$NAME"
ip link set lo up
# Both ends stay here: an address that is not loopback, where no dummy driver is to be had.
ip link add node0 type veth peer name node0p
ip addr add "$IP/24" dev node0
ip link set node0 up
ip link set node0p up
# Without a route the node itself cannot dial a Service: connect() fails before the address is translated.
ip route add "$SVC" dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
export PATH="$S/wrap:$NODE_DEB/usr/bin:$NODE_DEB/usr/sbin:$PATH"
stop=0
trap 'stop=1' TERM INT

start etcd "$S/bin/etcd" --name node --data-dir "$S/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster node=http://127.0.0.1:2380
start containerd containerd --config "$S/containerd.toml"
# Pods reach it at the address it advertises, through the Service `kubernetes` as everywhere.
start kube-apiserver "$S/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$IP" --service-cluster-ip-range="$SVC" \
    --tls-cert-file="$S/pki/apiserver.crt" --tls-private-key-file="$S/pki/apiserver.key" \
    --client-ca-file="$S/pki/ca.crt" --cert-dir="$S/pki" \
    --kubelet-client-certificate="$S/pki/kubelet-client.crt" --kubelet-client-key="$S/pki/kubelet-client.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$S/pki/sa.pub" --service-account-signing-key-file="$S/pki/sa.key" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
until curl -sk --max-time 2 https://127.0.0.1:6443/readyz 2>/dev/null | grep -qx ok; do
    kill -0 "$(cat "$S/pid/kube-apiserver")" || exit 1
    [ $stop = 0 ] || exit 1
    sleep 0.2
done
# With the default pace the first service account, and so the first pod, comes 5 s later. The folder for plugins would
# otherwise be made below /usr.
start kube-controller-manager "$S/bin/kube-controller-manager" --kubeconfig="$S/kube-controller-manager.conf" \
    --leader-elect=false --root-ca-file="$S/pki/ca.crt" --service-account-private-key-file="$S/pki/sa.key" \
    --use-service-account-credentials=true --service-cluster-ip-range="$SVC" --bind-address=127.0.0.1 \
    --kube-api-qps=500 --kube-api-burst=1000 --flex-volume-plugin-dir="$S/volplugins"
start kube-scheduler "$S/bin/kube-scheduler" --kubeconfig="$S/kube-scheduler.conf" --leader-elect=false \
    --bind-address=127.0.0.1
start kubelet "$S/bin/kubelet" --config="$S/kubelet.yaml" --kubeconfig="$S/kubelet.conf" --root-dir="$S/kubelet" \
    --cert-dir="$S/kubelet/pki" --hostname-override="$NAME" --node-ip="$IP"
start kube-proxy "$S/bin/kube-proxy" --config="$S/kube-proxy.yaml"
# A process of the node, on the address that the kubelet gives to pods.
ip addr add "$DNS/32" dev lo
start coredns "$S/bin/coredns" -conf "$S/Corefile"

while [ $stop = 0 ]; do
    sleep 1 &
    wait $! || true
done
# First whoever would start a pod again, then every container, then the rest.
for name in kubelet coredns kube-proxy kube-scheduler kube-controller-manager; do
    kill "$(cat "$S/pid/$name")" 2>/dev/null || true
done
tasks() { ctr -a "$S/containerd.sock" -n k8s.io tasks "$@" 2>/dev/null || true; }
for task in $(tasks ls -q); do tasks kill -s SIGTERM "$task"; done
for _ in 1 2 3 4 5 6; do
    tasks ls | grep -q RUNNING || break
    sleep 0.5
done
for name in kube-apiserver etcd containerd; do kill "$(cat "$S/pid/$name")" 2>/dev/null || true; done
sleep 0.5
