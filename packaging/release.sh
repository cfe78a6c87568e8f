#!/usr/bin/env bash
# Makes a release as far as one machine can: packaging/release.sh VERSION [--dry-run].
#
#   1. checks: no uncommitted change, no such tag yet, something written under Unreleased in CHANGELOG.md
#   2. sets the version everywhere, and moves what is under Unreleased to it: one commit, made in a folder apart
#   3. builds everything from exactly that commit into target/release-VERSION/
#   4. says what it leaves to you: to take the commit, to tag, to sign and to publish
#
# Your branch and your files are left alone, so a release that failed leaves nothing to undo. At a commit that has the
# version already, such as that of a tag, nothing is set and the commit itself is built. With --dry-run the change is
# shown, and nothing is committed or built.
#
# ARCH as for the image; HELM, a Helm 4 to pack the chart with, by default the one that the tests use.
set -euo pipefail
. "$(dirname "$0")/origin.sh"
repository=$root
cd "$repository"

usage='make release VERSION=1.2.3, or packaging/release.sh 1.2.3 [--dry-run]'
dry=no
version=
for argument; do
    case "$argument" in
        --dry-run) dry=yes ;;
        -*) fail "there is no $argument" "$usage" ;;
        *) version=$argument ;;
    esac
done
# Of semantic versions, those that are a container's tag too: no build metadata behind a plus.
number='(0|[1-9][0-9]*)'
word='(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)'
[[ $version =~ ^$number\.$number\.$number(-$word(\.$word)*)?$ ]] || fail "the version is '$version'" "$usage"
tag="v$version"

# ---- checks

[ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$repository" ] || fail 'this folder is no git repository, and a release is a commit'
changed=$(git status --porcelain)
[ -z "$changed" ] || fail 'there are changes that are not committed; commit them or put them away:' "$changed"
if tagged=$(git rev-parse --quiet --verify "refs/tags/$tag^{commit}") && [ "$tagged" != "$(git rev-parse HEAD)" ]; then
    fail "$tag is there already, at another commit" 'a version that was published once means that commit for good: take the next one'
fi

# What stands under a heading of the changelog, without empty lines around it.
section() { awk -v heading="## [$1]" '
    index($0, "## ") == 1 { on = index($0, heading) == 1; next }
    on && (NF || text != "") { text = text $0 "\n" }
    END { sub(/\n+$/, "\n", text); printf "%s", text }' CHANGELOG.md; }

release_is_set=no
if [ "$VERSION" = "$version" ] && [ -n "$(section "$version")" ]; then
    release_is_set=yes
else
    # In the order of versions, in which 1.0.0-rc.1 comes before 1.0.0.
    newest=$(printf '%s\n' "$VERSION" "$version" | sed 's/-/~/' | LC_ALL=C sort --version-sort | tail -n 1 | sed 's/~/-/')
    [ "$newest" = "$version" ] || fail "the version is $VERSION now, and $version is before it"
    [ -z "$(section "$version")" ] || fail "CHANGELOG.md has a section $version already, and Cargo.toml says $VERSION"
    grep -q '^- ' <<<"$(section Unreleased)" || fail 'nothing stands under Unreleased in CHANGELOG.md' 'write there what a user notices'
fi

# ---- the commit, in a folder apart

out="$repository/target/release-$version"
mkdir -p "$repository/target"
work=$(mktemp -d "$repository/target/.release.XXXXXX")
leave() {
    git -C "$repository" worktree remove --force "$work/source" 2>/dev/null || true
    rm -rf "$work"
}
trap leave EXIT
trap 'exit 1' HUP INT TERM
git worktree add --quiet --detach "$work/source" HEAD
cd "$work/source"

# replace FILE SED-SCRIPT: exactly what was meant is changed, or nothing is released.
replace() {
    cp "$1" "$work/before"
    sed -i "$2" "$1"
    ! cmp --silent "$1" "$work/before" || [ "$VERSION" = "$version" ] || fail "in $1 there is no version to set"
}
set_version() {
    local old=${VERSION//./\\.} lock
    replace Cargo.toml "0,/^version = \"$old\"\$/s//version = \"$version\"/"
    for lock in Cargo.lock fuzz/Cargo.lock; do
        replace "$lock" "/^name = \"chekt-operator\"\$/{n;s/^version = \"$old\"\$/version = \"$version\"/}"
    done
    replace Dockerfile "s/^ARG VERSION=$old\$/ARG VERSION=$version/"
    replace charts/chekt-operator/Chart.yaml "s/^version: .*/version: $version/; s/^appVersion: .*/appVersion: $version/"
    replace gitops/argocd/application.yaml "s/^\( *targetRevision: \)$old\$/\1$version/"
    replace docs/quickstart.md "s/\(chekt-operator:\)$old\b/\1$version/g"
    replace CHANGELOG.md "s/^## \[Unreleased\]\$/&\n\n## [$version] - $(date -u +%Y-%m-%d)/"
}
if [ "$release_is_set" = no ]; then
    set_version
    git diff --exit-code --quiet && fail 'nothing was changed'
fi

files="chekt-operator-$version.tgz chekt-operator-$version-crds.yaml chekt-operator-$version-linux-$ARCH.oci.tar
chekt-operator-$version-linux-$ARCH.cdx.json kubectl-chekt-$version-linux-$ARCH.tar.gz
chekt-operator-$version-linux-$ARCH.toolchain.txt RELEASE_NOTES.md SHA256SUMS"

if [ "$dry" = yes ]; then
    git --no-pager diff
    say "a dry run: nothing was committed and nothing was built. These would be in $out:"
    # shellcheck disable=SC2086 # a list of words
    printf '   %s\n' $files >&2
    exit 0
fi
[ "$release_is_set" = yes ] || git commit --quiet --all --message "Release $version"
commit=$(git rev-parse HEAD)

# ---- the build, from that commit and nothing else

say "building $version from $commit"
unset CHEKT_BUILD_COMMIT SOURCE_DATE_EPOCH VERSION
# What was compiled for development or for the last image is of use here too: no path of the folder gets into the binary.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target} ARCH
made="$work/made"
mkdir "$made"
packaging/image.sh "$work/image"
TWICE=0 packaging/image-check.sh "$work/image"
cp "$work/image/chekt-operator.oci.tar" "$made/chekt-operator-$version-linux-$ARCH.oci.tar"

. packaging/origin.sh
# pack FOLDER OUT: the same bytes whenever it is made.
pack() {
    tar --create --directory "$1" --format ustar --sort name --mtime "@$STAMP" --owner 0 --group 0 --numeric-owner \
        --mode 'u=rwX,go=rX' "${@:3}" | gzip --no-name --best >"$2"
}

install -D -m 0755 "$work/image/chekt-operator" "$work/plugin/kubectl-chekt"
install -m 0644 LICENSE "$work/plugin/LICENSE"
pack "$work/plugin" "$made/kubectl-chekt-$version-linux-$ARCH.tar.gz" kubectl-chekt LICENSE

packaging/sbom.sh "$made/chekt-operator-$version-linux-$ARCH.cdx.json"
for file in crds/*.yaml; do echo ---; cat "$file"; done >"$made/chekt-operator-$version-crds.yaml"

helm=${HELM:-$("${CARGO:-cargo}" run --locked --quiet --example control-plane -- tool helm)}
# Helm writes down when each file was changed, which in a fresh checkout is now.
find charts -exec touch -d "@$STAMP" {} +
"$helm" package charts/chekt-operator --destination "$made" >/dev/null

# What somebody needs to make the same bytes once more.
{
    rustc -V
    ${CC:-cc} --version | sed -n 1p
    buildah --version
    echo "helm $("$helm" version --short)"
    echo "roots: ca-certificates $(dpkg-query --show --showformat '${Version}' ca-certificates 2>/dev/null || echo "from ${CA_CERTIFICATES:-elsewhere}")"
    echo "commit $commit"
    echo "image $(cat "$work/image/digest")"
} >"$made/chekt-operator-$version-linux-$ARCH.toolchain.txt"
section "$version" >"$made/RELEASE_NOTES.md"
# shellcheck disable=SC2086 # a list of words
(cd "$made" && sha256sum ${files%SHA256SUMS} >SHA256SUMS && ls $files >/dev/null)
chmod 0755 "$made"
rm -rf "$out"
mv "$made" "$out"

# ---- what is left

cd "$repository"
{
    echo
    (cd "$out" && stat --printf '%12s  %n\n' -- *)
    echo
    echo "That is $version, in $out. What is left to you:"
    [ "$release_is_set" = yes ] || echo "   git merge --ff-only $commit     # takes the release commit to this branch; until then nothing holds it"
    [ -n "${tagged:-}" ] || echo "   git tag --sign $tag --message $tag $commit"
    echo "   git push && git push origin $tag     # on GitHub, the release workflow makes the same there and publishes it"
    echo 'or, without GitHub, with registry.example.com being yours:'
    echo "   skopeo copy oci-archive:$out/chekt-operator-$version-linux-$ARCH.oci.tar docker://registry.example.com/chekt-operator:$version"
    echo "   helm push $out/chekt-operator-$version.tgz oci://registry.example.com/charts"
    echo "   cosign sign registry.example.com/chekt-operator@$(sed -n 's/^image //p' "$out/chekt-operator-$version-linux-$ARCH.toolchain.txt")"
} >&2
