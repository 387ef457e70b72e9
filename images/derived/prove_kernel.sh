#!/bin/sh
# prove_kernel.sh MODULE: the kernel starts as the server will start it, and has the framework.
. /opt/ds01/build/lib.sh
JUPYTER_PATH=$root/share/jupyter "$env/bin/python" "$build/prove_kernel.py" "$1"
