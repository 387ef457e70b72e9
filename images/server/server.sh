#!/bin/sh
# server.sh HUB: the notebook server for this version of JupyterHub, on the Python of python.sh.
. /opt/ds01/build/lib.sh
. /opt/ds01/build/libraries.sh
hub=$1
server=$root/server

"$server/base/bin/python3" -I -m venv "$server"
# Newer jsonschema builds a grammar at each import, about a second of each start.
"$server/bin/python" -m pip install --only-binary :all: \
    "jupyterhub==$hub" 'jupyterlab>=4,<5' 'jupyter-server-proxy>=4.4,<5' 'jsonschema<4.25'
find "$server/lib" -name '*.so*' -type f >"$HOME/linked"
# shellcheck disable=SC2046
copy_libraries "$server/base/libs" $(cat "$HOME/linked")

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
