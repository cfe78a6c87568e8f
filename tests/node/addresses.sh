# What prepare.sh and inside.sh must agree on. All of it is in namespaces of the node's own.
NAME=node                           # the node and its host
IP=10.77.0.1 PODS=10.77.1.0/24
SVC=10.96.0.0/16 SVCIP=10.96.0.1 DNS=10.96.0.10
HIERARCHIES='cpu cpuacct cpuset memory devices freezer blkio pids systemd'
