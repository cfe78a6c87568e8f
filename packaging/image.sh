#!/usr/bin/env bash
# Makes the image without a container engine: packaging/image.sh [FOLDER], by default target/image.
#
# The binary is built here (packaging/binary.sh), laid out as for the Dockerfile (packaging/rootfs.sh), and packed by
# the Dockerfile's own last stage with buildah, which runs nothing for that. What comes out is an OCI archive whose
# image is named localhost/chekt-operator:VERSION; one commit on one machine makes the same bytes each time.
set -euo pipefail
. "$(dirname "$0")/origin.sh"
. "$root/packaging/buildah.sh"

folder=$(realpath -m "${1:-$root/target/image}")
name="localhost/chekt-operator:$VERSION"
archive="$folder/chekt-operator.oci.tar"
binary="$folder/chekt-operator"
mkdir -p "$folder"

need_buildah
"$root/packaging/binary.sh" "$binary"

work=$(mktemp -d "$folder/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

mkdir "$work/context"
"$root/packaging/rootfs.sh" "$binary" "$work/builder/out/rootfs"
# The stages before the last one need a base image from a registry, and make what has just been made.
sed -n '/^FROM scratch$/,$p' "$root/Dockerfile" >"$work/Dockerfile"
[ -s "$work/Dockerfile" ] || fail 'the Dockerfile has no stage that begins with FROM scratch'

arguments=(--build-arg "VERSION=$VERSION" --build-arg "CREATED=$(date -u -d "@$STAMP" +%Y-%m-%dT%H:%M:%SZ)")
[ -z "$CHEKT_BUILD_COMMIT" ] || arguments+=(--build-arg "REVISION=$CHEKT_BUILD_COMMIT")

say "packing $name for linux/$ARCH"
BUILDAH_STORAGE="$work/storage"
# Neither the clock nor the version of buildah belongs to what the image is.
buildah_here build --quiet --isolation chroot --format oci --platform "linux/$ARCH" \
    --timestamp "$STAMP" --identity-label=false --build-context "builder=$work/builder" \
    "${arguments[@]}" --file "$work/Dockerfile" --tag "$name" "$work/context" >/dev/null
buildah_here push --quiet "$name" "oci:$work/layout:$name"
buildah_here rmi --all >/dev/null

# buildah's own archive holds the time at which it was written.
tar --create --file "$work/archive" --directory "$work/layout" --format ustar --sort name --mtime "@$STAMP" \
    --owner 0 --group 0 --numeric-owner --mode 'u=rwX,go=rX' .
mv "$work/archive" "$archive"

digest=$(sed -n 's/.*"digest":"\(sha256:[0-9a-f]*\)".*/\1/p' "$work/layout/index.json")
printf '%s\n' "$digest" >"$folder/digest"
say "$name $digest"
say "$archive, $(($(stat -c %s "$archive") / 1024)) KiB"
