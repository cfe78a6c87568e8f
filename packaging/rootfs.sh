#!/usr/bin/env bash
# Lays out everything that is in the image: packaging/rootfs.sh BINARY OUT.
#
# Both ways to make the image use it, the Dockerfile and `make image`. CA_CERTIFICATES names a bundle of roots to put in;
# without it, they are Mozilla's as Debian's package has them. Not the machine's own bundle: that holds whatever somebody
# added to this machine, and the image would trust it everywhere.
set -euo pipefail
. "$(dirname "$0")/origin.sh"

binary=${1:?usage: packaging/rootfs.sh BINARY OUT} out=${2:?usage: packaging/rootfs.sh BINARY OUT}
mozilla=/usr/share/ca-certificates/mozilla

rm -rf "$out"
install -d -m 0755 "$out" "$out"/{etc,etc/ssl,etc/ssl/certs,usr,usr/local,usr/local/bin} \
    "$out"/usr/{share,share/licenses,share/licenses/chekt-operator}

install -m 0755 "$binary" "$out/usr/local/bin/chekt-operator"
# The same program under the name by which kubectl finds a plugin.
ln -s chekt-operator "$out/usr/local/bin/kubectl-chekt"
install -m 0644 "$root/LICENSE" "$out/usr/share/licenses/chekt-operator/LICENSE"

roots="$out/etc/ssl/certs/ca-certificates.crt"
if [ -n "${CA_CERTIFICATES:-}" ]; then
    cat "$CA_CERTIFICATES" >"$roots"
elif [ -d "$mozilla" ]; then
    # A file may lack its last newline. The order is the same in every language. With `./` before it, a name with an equals
    # sign, which one root has, is no assignment to awk.
    (cd "$mozilla" && printf './%s\0' *.crt | LC_ALL=C sort --zero-terminated | xargs --null awk 1) >"$roots"
else
    fail "no roots: $mozilla is not there" 'on Debian: apt-get install ca-certificates' \
        'elsewhere: CA_CERTIFICATES=a bundle of PEM certificates that is to be in the image'
fi
certificates=$(grep -c '^-----BEGIN CERTIFICATE-----$' "$roots") ||
    fail 'there is no certificate in what is to be the roots'
if [ -z "${CA_CERTIFICATES:-}" ]; then
    files=$(find "$mozilla" -name '*.crt' | wc -l)
    [ "$certificates" = "$files" ] || fail "of $files roots in $mozilla, $certificates were taken"
fi

# So that the number has a name, and for a library that looks up its own home.
echo 'chekt-operator:x:65532:65532:chekt-operator:/:/usr/sbin/nologin' >"$out/etc/passwd"
echo 'chekt-operator:x:65532:' >"$out/etc/group"
# What a Pod's resolver is used to: names in /etc/hosts win.
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
chmod 0644 "$out"/etc/{passwd,group,nsswitch.conf} "$roots"

find "$out" -exec touch -h -d "@$STAMP" {} +
say "laid out with $certificates roots"
