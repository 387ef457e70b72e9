#!/bin/sh
# apt.sh FILE: system packages, one name a line. Exact names only: apt would take a name that it
# does not know for a pattern, or for "remove" where it ends in '-'.
. /opt/ds01/build/lib.sh
file=$1
command -v apt-get >/dev/null || fail "This image has no apt-get, so system packages cannot be added."
apt_update
apt-cache pkgnames >"$HOME/names"
missing=
while read -r name; do
    grep -Fxq -- "$name" "$HOME/names" || missing="$missing $name"
done <"$file"
for name in $missing; do
    echo "E: Unable to locate package $name" >&2
done
[ -z "$missing" ] || exit 100
set -f
# shellcheck disable=SC2046
apt_get install -y --no-install-recommends -- $(cat "$file")
apt_clean
