#!/bin/sh
# Unpack one Debian package into a folder, without installing anything and without root.
#
#   fetch_debian_package.sh PACKAGE SUITE DESTINATION
#
# The package is downloaded with apt from the machine's own mirror: the source list is made from the
# machine's list by replacing the name of its suite with SUITE. DESTINATION then holds usr/include etc.
# A second call with the same arguments does nothing.
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 PACKAGE SUITE DESTINATION" >&2
    exit 2
fi
package=$1 suite=$2 destination=$3
stamp="$destination/.unpacked-$package-$suite"
[ -e "$stamp" ] && exit 0

fail() {
    echo "fetch_debian_package: $1" >&2
    exit 1
}
for tool in apt-get dpkg-deb awk; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool not found; this script needs Debian or a derivative"
done
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$codename" ] || fail "no VERSION_CODENAME in /etc/os-release, so the suite's name cannot be replaced"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts" "$work/download"

# Stanzas (deb822) and lines (one-line style) that offer the machine's own suite itself; its
# -updates and -security companions are dropped, since they may not exist under the other name.
for list in /etc/apt/sources.list.d/*.sources; do
    [ -e "$list" ] || continue
    awk -v from="$codename" -v to="$suite" -v RS='' -v FS='\n' '
        { keep = 0; text = ""
          for (i = 1; i <= NF; ++i) {
              line = $i
              if (line ~ /^#/) continue
              if (line ~ /^Suites:/) {
                  count = split(substr(line, 8), names, /[ \t]+/)
                  for (j = 1; j <= count; ++j) if (names[j] == from) keep = 1
                  line = "Suites: " to
              }
              text = text line "\n"
          }
          if (keep) print text }' "$list"
done > "$work/machine.sources"
{ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | awk -v from="$codename" -v to="$suite" '
    $1 == "deb" { for (i = 2; i <= NF; ++i) if ($i == from) { $i = to; print; next } }' > "$work/machine.list"
cp "$work/machine.sources" "$work/parts/machine.sources"
[ -s "$work/machine.sources" ] || [ -s "$work/machine.list" ] \
    || fail "no apt source for the suite '$codename' found under /etc/apt to derive one for '$suite' from"

# shellcheck disable=SC2086
apt_options="-qq -o Dir::Etc::SourceList=$work/machine.list -o Dir::Etc::SourceParts=$work/parts
    -o Dir::State::Lists=$work/lists -o Dir::Cache::Archives=$work/archives
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none
    -o APT::Sandbox::User= -o Debug::NoLocking=1"
echo "downloading $package ($suite) ..." >&2
# shellcheck disable=SC2086
apt-get $apt_options update || fail "apt-get could not read the package index of '$suite'"
# shellcheck disable=SC2086
(cd "$work/download" && apt-get $apt_options download "$package") || fail "apt-get could not download $package from '$suite'"

mkdir -p "$destination"
for archive in "$work"/download/*.deb; do
    dpkg-deb -x "$archive" "$destination"
done
: > "$stamp"
