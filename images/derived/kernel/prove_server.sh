#!/bin/sh
# prove_server.sh MODULE: the server answers, and its kernel is the framework's Python.
. /opt/ds01/build/lib.sh
/opt/ds01/server/bin/python -I "$build/prove_server.py" "$1"
