#!/bin/sh
# server.sh HUB_MAJOR MODULE: the notebook server, in an environment of its own.
. /opt/ds01/build/lib.sh
hub=$1
module=$2
server=$root/server

case $hub in 5) oldest="3 8" ;; *) oldest="3 10" ;; esac
found=
for name in "$(framework_python "$module")" python3.13 python3.12 python3.11 python3.10 python3 /usr/bin/python3; do
    path=$(command -v "$name") || continue
    # shellcheck disable=SC2086
    if at_least "$path" $oldest; then
        found=$path
        break
    fi
done
if [ -z "$found" ]; then
    fail "This image has only $(python3 --version 2>&1), and the notebook server of JupyterHub $hub needs Python $(echo "$oldest" | tr ' ' .) or newer."
fi

make_venv "$found" "$server"
# Newer jsonschema builds a grammar at each import, about a second of each start.
"$server/bin/python" -m pip install --only-binary :all: \
    "jupyterhub>=$hub,<$((hub + 1))" 'jupyterlab>=4,<5' 'jsonschema<4.25'

install -D -m 644 "$build/jupyter_server_config.json" "$server/etc/jupyter/jupyter_server_config.json"
install -D -m 644 "$build/page_config.json" "$server/etc/jupyter/labconfig/page_config.json"
# What tells in JupyterLab when the server ends.
packages=$("$server/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
lab=$server/share/jupyter/labextensions/ds01-ending
install -D -m 644 "$build/ending/ds01_ending.py" "$packages/ds01_ending.py"
install -D -m 644 "$build/ending/package.json" "$lab/package.json"
install -D -m 644 "$build/ending/remoteEntry.js" "$lab/static/remoteEntry.js"
# PYTHONPATH and its like are for the kernel, not for the server.
sed -i '1s|^\(#!/opt/ds01/server/bin/python[0-9.]*\)$|\1 -I|' "$server"/bin/jupyter*
