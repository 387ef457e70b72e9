#!/bin/sh
# pip.sh FILE wheels-only|source-allowed: Python packages, as the account that owns the
# environment. The constraints keep the framework's own packages as they are.
. /opt/ds01/build/lib.sh
file=$1
kind=$2
set --
if [ "$kind" = wheels-only ]; then
    set -- --only-binary :all:
fi
{
    status=0
    "$env/bin/python" -m pip install "$@" -r "$file" -c "$root/constraints.txt" || status=$?
    echo "$status" >"$HOME/status"
} 2>&1 | tee "$HOME/log"
status=$(cat "$HOME/status")
[ "$status" = 0 ] && exit 0

# pip 20.3 does not say that a constraint was the reason.
missing=$(sed -n 's/.*Could not find a version that satisfies the requirement \([A-Za-z0-9._-]*\).*/\1/p' "$HOME/log" | tail -n 1)
held=$(grep "^$(echo "$missing" | tr 'A-Z_.' 'a-z--')==" "$root/constraints.txt") && say "the framework image has $held"
# pip says "no versions" of a package that has no wheel for this Python, and of one whose index
# fails; asked for its versions, it tells more.
name=$(sed -n 's/.*Could not find a version that satisfies the requirement \([A-Za-z0-9._-]*\).*(from versions: none).*/\1/p' "$HOME/log" | tail -n 1)
if [ -n "$name" ] && ! grep -q 'require a different python version' "$HOME/log"; then
    "$env/bin/python" -m pip -vv --retries 0 index versions "$name" >"$HOME/versions" 2>&1 || :
    answer=$(sed -n 's#.*Could not fetch URL [a-z]*://\([^/ ]*@\)*\([^/ ]*\).*[^0-9]\(5[0-9][0-9]\) \(error responses\|Server Error\).*#\2 failed with status \3#p' "$HOME/versions" | head -n 1)
    [ -z "$answer" ] || fail "the package index $answer; try again in a few minutes."
    versions=$(sed -n 's/^ *Available versions: //p' "$HOME/versions")
    if [ "$kind" = wheels-only ] && [ -n "$versions" ]; then
        fail "$name has no ready-made package (wheel) for this image's Python, only its source, and building from source is not allowed here."
    fi
fi
exit "$status"
