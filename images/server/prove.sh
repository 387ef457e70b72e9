#!/bin/sh
# prove.sh: the notebook server answers.
. /opt/ds01/build/lib.sh
/opt/ds01/server/bin/python -I "$build/prove.py"
