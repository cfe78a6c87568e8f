# Sourced by the scripts beside it: which version this is, which commit it is made from, and when that was.
#
# CHEKT_BUILD_COMMIT and SOURCE_DATE_EPOCH come from the caller where there is no history, else from git. Nothing here
# reads the clock: whatever is made from one commit is to have one digest.
# shellcheck shell=bash disable=SC2034 # whoever sources it uses what is set here

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

say() { printf '== %s\n' "$*" >&2; }

VERSION=$(sed -n '/^version = /{s/.*"\(.*\)".*/\1/p;q}' "$root/Cargo.toml")
[ -n "$VERSION" ] || fail "Cargo.toml names no version"

if [ -z "${CHEKT_BUILD_COMMIT:-}" ] && [ "$(git -C "$root" rev-parse --show-toplevel 2>/dev/null)" = "$root" ]; then
    CHEKT_BUILD_COMMIT=$(git -C "$root" rev-parse HEAD)
    : "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct)}"
    if [ -n "$(git -C "$root" status --porcelain --untracked-files=no)" ]; then
        CHEKT_BUILD_COMMIT+=-dirty
    fi
fi
# Empty: unknown, which is what the binary then says of itself.
export CHEKT_BUILD_COMMIT=${CHEKT_BUILD_COMMIT:-} SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-}
# What is written into archives, which have no word for an unknown date.
STAMP=${SOURCE_DATE_EPOCH:-0}

# The names that Go, containers and charts have for it, of the machine unless somebody asks for another one.
case "${ARCH:-$(uname -m)}" in
    amd64 | x86_64) ARCH=amd64 TRIPLE=x86_64-unknown-linux-gnu ;;
    arm64 | aarch64) ARCH=arm64 TRIPLE=aarch64-unknown-linux-gnu ;;
    *) fail "no image is made for ${ARCH:-$(uname -m)}" "write ARCH=amd64 or ARCH=arm64" ;;
esac
