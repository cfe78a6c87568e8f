#!/usr/bin/env bash
# Writes what a node needs before it starts: certificates, kubeconfigs, the settings of each program, and a cgroup of its
# own in each hierarchy as the parent of all pods. tests/harness/node.rs calls it and starts inside.sh afterwards.
#
#   NODE_DIR     everything the node writes; has the programs in bin/
#   NODE_DEB     extracted containerd, runc, CNI plugins and nft
#   NODE_CGROUP  the name of its cgroup
#   NODE_PORT    the port of loopback at which the API server will be reached from outside
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/addresses.sh"
S=$NODE_DIR

mkdir -p "$S"/{pki,log,pid,wrap,var/upper,var/work,sysctl,cni/net.d,cni/data,kubelet,containerd}

# One CA; a certificate for the API server, for the admin and for each program.
cd "$S/pki"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }
key ca
openssl req -x509 -new -key ca.key -subj /CN=node-ca -days 2 -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
cert() { # name, subject, other names
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" 2>/dev/null |
        openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$1.crt" -extfile <(
            echo 'keyUsage=critical,digitalSignature'
            echo 'extendedKeyUsage=serverAuth,clientAuth'
            [ -z "${3:-}" ] || echo "subjectAltName=$3"
        ) 2>/dev/null
}
service=DNS:kubernetes.default.svc
cert apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$IP,IP:$SVCIP,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,$service,$service.cluster.local"
cert kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
conf() { # file, certificate, subject, server
    cert "$2" "$3"
    cat >"$S/$1" <<K
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "$4", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: node, user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}}]
contexts: [{name: node, context: {cluster: node, user: node}}]
current-context: node
K
}
conf admin.kubeconfig admin /O=system:masters/CN=admin "https://127.0.0.1:$NODE_PORT"
for program in kube-controller-manager kube-scheduler kube-proxy; do
    conf $program.conf $program /CN=system:$program https://127.0.0.1:6443
done
conf kubelet.conf kubelet "/O=system:nodes/CN=system:node:$NAME" https://127.0.0.1:6443
conf coredns.conf coredns /O=system:masters/CN=coredns https://127.0.0.1:6443
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null

cat >"$S/containerd.toml" <<K
version = 2
root = "$S/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$S/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Without CAP_SYS_RESOURCE nobody may lower an oom score; runc then ends with "can't get final child's PID from pipe".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$NODE_DEB/usr/lib/cni"
    conf_dir = "$S/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "$NODE_DEB/usr/sbin/runc"
        SystemdCgroup = false
K
# No bridge and no masquerading: pods have routes to each other and to the node, and nothing else to reach.
cat >"$S/cni/net.d/10-node.conflist" <<K
{"cniVersion": "0.4.0", "name": "node", "plugins": [{"type": "ptp", "mtu": 1500, "ipMasq": false,
 "ipam": {"type": "host-local", "dataDir": "$S/cni/data", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
K
cat >"$S/Corefile" <<K
.:53 {
  bind $DNS
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $S/coredns.conf
  }
  cache 5
}
K
printf 'nameserver %s\n' "$DNS" >"$S/resolv.conf"
for file in kubelet.yaml kube-proxy.yaml; do
    sed -e "s#@S@#$S#g; s#@IP@#$IP#g; s#@NAME@#$NAME#g; s#@DNS@#$DNS#g; s#@PODS@#$PODS#g; s#@CGROUP@#$NODE_CGROUP#g" \
        "$here/$file" >"$S/$file"
done
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/sbin/nft "$@"\n' \
    "$(echo "$NODE_DEB"/usr/lib/*-linux-gnu)" "$NODE_DEB" >"$S/wrap/nft"
chmod +x "$S/wrap/nft"

for hierarchy in $HIERARCHIES; do
    dir=/sys/fs/cgroup/$hierarchy/$NODE_CGROUP
    mkdir -p "$dir"
    if [ "$hierarchy" = cpuset ]; then
        cat /sys/fs/cgroup/cpuset/cpuset.cpus >"$dir/cpuset.cpus"
        cat /sys/fs/cgroup/cpuset/cpuset.mems >"$dir/cpuset.mems"
    fi
done
