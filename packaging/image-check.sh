#!/usr/bin/env bash
# Looks into the image that `make image` made and runs it, then makes it once more in another folder and compares:
# packaging/image-check.sh [FOLDER]. TWICE=0 leaves the second build out, which takes as long as the first one.
#
# As root, or in a namespace that buildah makes: it changes into the image and becomes user 65532.
set -euo pipefail
. "$(dirname "$0")/origin.sh"
. "$root/packaging/buildah.sh"

folder=$(realpath -m "${1:-$root/target/image}")
archive="$folder/chekt-operator.oci.tar"
limit=$((40 * 1000 * 1000))
[ -f "$archive" ] || fail "$archive is not there" 'make image'
need_buildah
if [ "$(id -u)" != 0 ] && [ -z "${_CONTAINERS_USERNS_CONFIGURED:-}" ]; then
    exec buildah unshare "$0" "$@"
fi

BUILDAH_STORAGE=$(mktemp -d)
again=
leave() {
    # A mount that is left would be emptied by the removal below.
    [ ! -d "$BUILDAH_STORAGE/images" ] || buildah_here umount --all >/dev/null
    rm -rf "$BUILDAH_STORAGE" ${again:+"$again"}
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

wrong=0
# check WHAT IS WANTED
check() {
    if [ "$2" = "$3" ]; then
        printf '  ok     %s: %s\n' "$1" "$2" >&2
    else
        printf '  WRONG  %s: %s, and not %s\n' "$1" "$2" "$3" >&2
        wrong=1
    fi
}
# check_that WHAT COMMAND...
check_that() {
    local what=$1
    shift
    if "$@"; then check "$what" yes yes; else check "$what" no yes; fi
}

container=$(buildah_here from --quiet "oci-archive:$archive")
inspect() { buildah_here inspect --format "$1" "$container"; }
label() { inspect "{{index .OCIv1.Config.Labels \"org.opencontainers.image.$1\"}}"; }

say "what $archive says of itself"
check architecture "$(inspect '{{.OCIv1.OS}}/{{.OCIv1.Architecture}}')" "linux/$ARCH"
check user "$(inspect '{{.OCIv1.Config.User}}')" 65532:65532
check entrypoint "$(inspect '{{.OCIv1.Config.Entrypoint}}')" '[/usr/local/bin/chekt-operator]'
check 'label version' "$(label version)" "$VERSION"
check 'label revision' "$(label revision)" "${CHEKT_BUILD_COMMIT:-unknown}"
check 'label created' "$(label created)" "$(date -u -d "@$STAMP" +%Y-%m-%dT%H:%M:%SZ)"
check 'label licenses' "$(label licenses)" Apache-2.0

say 'what is in it'
tree=$(buildah_here mount "$container")
size=$(du --bytes --summarize "$tree" | cut -f 1)
check_that "$((size / 1000)) kB unpacked and $(($(stat -c %s "$archive") / 1000)) kB packed are less than $((limit / 1000)) kB" \
    [ "$size" -lt "$limit" ]
check files "$(cd "$tree" && find . ! -type d -print0 | LC_ALL=C sort -z | xargs -0)" \
    './etc/group ./etc/nsswitch.conf ./etc/passwd ./etc/ssl/certs/ca-certificates.crt ./usr/local/bin/chekt-operator ./usr/local/bin/kubectl-chekt ./usr/share/licenses/chekt-operator/LICENSE'
check 'files that others may write' "$(cd "$tree" && find . ! -type l -perm /022 -printf '%p ')" ''
cargo_home=${CARGO_HOME:-$HOME/.cargo}
for path in "$root/" "$cargo_home/"; do
    check "times that the binary names $path" "$(grep --count --text --fixed-strings -- "$path" "$tree/usr/local/bin/chekt-operator" || true)" 0
done

say 'what it does as user 65532, with nothing but itself, and none of it to be written'
# In a namespace of its own, so that nothing of it outlives the command.
inside() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --propagation private bash -c '
        mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec chroot --userspec=65532:65532 "$0" "$@"
    ' "$tree" "$@"
}
day='date unknown'
[ -z "$SOURCE_DATE_EPOCH" ] || day=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
commit=${CHEKT_BUILD_COMMIT:-unknown}
short=${commit%-dirty}
short=${short:0:12}${commit#"${commit%-dirty}"}
check version "$(inside /usr/local/bin/chekt-operator --version)" "chekt-operator $VERSION (commit $short, $day)"
check_that 'the definitions that it prints are those of crds/' \
    cmp <(inside /usr/local/bin/chekt-operator crds) <(for file in "$root"/crds/*.yaml; do echo ---; cat "$file"; done)
check 'kubectl-chekt' "$(inside /usr/local/bin/kubectl-chekt --version | cut -d ' ' -f 2)" "$VERSION"

if [ "${TWICE:-1}" != 0 ]; then
    say 'the same once more, in another folder and from nothing'
    again=$(mktemp -d)
    tree_again="$again/a/folder/of/another/length"
    mkdir -p "$tree_again"
    (cd "$root" && git ls-files -z | xargs -0 cp --parents --target-directory "$tree_again") ||
        fail 'the files that git knows could not be copied' 'without git: TWICE=0'
    env --unset=CARGO_TARGET_DIR "$tree_again/packaging/image.sh" "$again/image"
    check digest "$(cat "$again/image/digest")" "$(cat "$folder/digest")"
    check_that 'the archives are the same bytes' cmp "$again/image/chekt-operator.oci.tar" "$archive"
fi

[ "$wrong" = 0 ] || fail 'the image is not as it should be'
say "$(cat "$folder/digest") is as it should be"
