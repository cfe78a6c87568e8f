#!/usr/bin/env bash
# Makes the machine of a workflow compile with the Rust that the Dockerfile names: packaging/toolchain.sh [VERSION].
#
# One compiler for the image of a registry and for that of a release, or they are not the same bytes.
set -euo pipefail
. "$(dirname "$0")/origin.sh"

version=${1:-$(sed -n 's/^ARG RUST_VERSION=//p' "$root/Dockerfile")}
[ -n "$version" ] || fail 'the Dockerfile names no RUST_VERSION'
rustup toolchain install "$version" --profile minimal --component rustfmt --component clippy
rustup default "$version"
