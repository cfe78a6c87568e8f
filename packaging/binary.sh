#!/usr/bin/env bash
# Builds the binary that ships: packaging/binary.sh OUT. ARCH=amd64 or arm64 for another machine than this one.
#
# Static, with glibc in it, so that the image needs nothing else; and without a path of the machine that built it, so
# that two builds in two folders are the same bytes. Development builds are not disturbed: with a target of its own
# Cargo keeps all of it apart.
set -euo pipefail
. "$(dirname "$0")/origin.sh"

out=${1:?usage: packaging/binary.sh OUT}
cd "$root"
[ "$(uname -s)" = Linux ] || fail 'a static binary with glibc is built on Linux' 'elsewhere, let the Dockerfile build it: docker build .'

cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
for path in "$root" "$cargo_home" "$target"; do
    case "$path" in *[[:space:]]*) fail "a C compiler is not told of folders with a space in their name: $path" ;; esac
done

# Where rust-src is installed, the compiler says its folder in place of the name that all others have for it.
library="$(rustc --print sysroot)/lib/rustlib/src/rust"
library_name="/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')"

# Our own files are named from the root of the repository anyway, so its folder is in no flag: whoever builds another
# folder with the same target compiles the dependencies once.
flags=(
    -C target-feature=+crt-static
    "--remap-path-prefix=$cargo_home=/cargo"
    "--remap-path-prefix=$target=/target"
    "--remap-path-prefix=$library=$library_name"
)
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
# A caller's own would be dropped without a word.
[ -z "${RUSTFLAGS:-}" ] || fail 'RUSTFLAGS is set, and the flags of what ships are written here' 'unset it'

underscored=${TRIPLE//-/_}
# The C parts, SQLite and the cryptography, know their files' names too.
c_flags="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target=/target"

if [ "$TRIPLE" != "$(rustc -vV | sed -n 's/^host: //p')" ]; then
    gcc="${TRIPLE/-unknown/}-gcc"
    command -v "$gcc" >/dev/null ||
        fail "$gcc is not there, and C is compiled for $ARCH too" "on Debian: apt-get install gcc-${gcc%-gcc} libc6-dev-$ARCH-cross"
    export "CARGO_TARGET_${underscored^^}_LINKER=$gcc" "CC_$underscored=$gcc"
    rustup target add "$TRIPLE"
fi

say "building $VERSION for $ARCH, commit ${CHEKT_BUILD_COMMIT:-unknown}"
export CARGO_ENCODED_RUSTFLAGS "CFLAGS_$underscored=$c_flags"
"${CARGO:-cargo}" build --locked --release --bin chekt-operator --target "$TRIPLE" --target-dir "$target"
install -D -m 0755 "$target/$TRIPLE/release/chekt-operator" "$out"
