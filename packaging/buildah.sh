# Sourced by the scripts that make and look into images: buildah, with a store of its own that leaves the machine's alone.
# shellcheck shell=bash

# Makes sure that buildah is there, or says what to do.
need_buildah() {
    command -v buildah >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say 'installing buildah, which packs the image'
        # As root, and lists of a new machine may be empty.
        { apt-get install -y --no-install-recommends buildah || { apt-get update && apt-get install -y --no-install-recommends buildah; }; } \
            </dev/null >&2 && return
    fi
    fail 'buildah is not there, and packs the image' \
        'Debian, Ubuntu: sudo apt-get install buildah; Fedora: sudo dnf install buildah; then again' \
        'with Docker or podman, without any of this: docker build -t chekt-operator .'
}

# Files are copied between layers (vfs), which works wherever a folder can be written.
buildah_here() {
    buildah --root "$BUILDAH_STORAGE/images" --runroot "$BUILDAH_STORAGE/run" --storage-driver vfs "$@"
}
