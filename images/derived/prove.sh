#!/bin/sh
# prove.sh MODULE: the packages left the kernel and the framework as they were.
. /opt/ds01/build/lib.sh
module=$1
"$env/bin/python" -c "import ipykernel${module:+, $module}" || fail "The kernel cannot import ${module:-ipykernel} any more with these packages."
if [ "$("$env/bin/python" "$build/origin.py" "$module")" != "$(cat "$build/origin-before.txt")" ]; then
    fail "These packages replace the framework's own $module."
fi
# pip before 20.3 leaves what contradicts a constraint as it is, and says nothing.
"$env/bin/python" -I "$build/exact.py" "$build/bundles.txt" "$build/requirements.txt" >"$HOME/inexact" || fail "$(tail -n 1 "$HOME/inexact")"
"$env/bin/python" -m pip check >"$HOME/check" 2>&1 || :
if grep -Fxv -f "$build/check-before.txt" "$HOME/check" | grep -v '^No broken requirements' >"$HOME/new"; then
    cat "$HOME/new"
    fail "These packages do not fit together: $(tail -n 1 "$HOME/new")"
fi
