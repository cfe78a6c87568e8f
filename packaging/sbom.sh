#!/usr/bin/env bash
# Writes what the binary is made of, as CycloneDX: packaging/sbom.sh OUT. ARCH as for the binary.
#
# What is linked in, and nothing that only builds or tests it. It is made from Cargo.lock by cargo-cyclonedx, which is
# kept in the project's cache; the same commit makes the same bytes.
set -euo pipefail
. "$(dirname "$0")/origin.sh"

out=$(realpath -m "${1:?usage: packaging/sbom.sh OUT}")
cargo=${CARGO:-cargo}
cyclonedx=0.5.9
tool="${XDG_CACHE_HOME:-$HOME/.cache}/chekt-operator/tools/cargo-cyclonedx-$cyclonedx"
[ -x "$tool/bin/cargo-cyclonedx" ] || "$cargo" install --locked --root "$tool" "cargo-cyclonedx@$cyclonedx" >&2

# It writes beside the manifest that it reads, so it is given one elsewhere.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cp -R "$root"/{Cargo.toml,Cargo.lock,LICENSE,README.md,build.rs,src} "$work/"

# With an epoch it leaves out the serial number, which is random, and takes the time from it.
export SOURCE_DATE_EPOCH=$STAMP
"$tool/bin/cargo-cyclonedx" cyclonedx --quiet --manifest-path "$work/Cargo.toml" --format json --spec-version 1.5 \
    --target "$TRIPLE" --no-build-deps --override-filename sbom

mkdir -p "$(dirname "$out")"
# The folder it was made in is nobody's concern, and another one each time.
sed "s|$work|/chekt-operator|g" "$work/sbom.json" >"$out"
say "$out, $(grep -c '"purl"' "$out") packages"
