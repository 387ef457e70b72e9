#!/bin/sh
# env.sh MODULE: the environment of kernel and packages, on the framework's own Python.
. /opt/ds01/build/lib.sh
module=$1
python=$(framework_python "$module")
say "the framework's Python is $python, $("$python" --version 2>&1)"

make_venv "$python" --system-site-packages "$env"
if [ -n "$module" ] && ! has_module "$env/bin/python" "$module"; then
    # A venv made from a venv sees the packages of the system only.
    purelib=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("-packages")))' >"$purelib/ds01-framework.pth"
fi

"$python" "$build/constraints.py" "$module" >"$root/constraints.txt"
# A pip of the image's own age resolves differently, and does not tell of constraints.
"$env/bin/python" -m pip install --only-binary :all: --upgrade pip
"$env/bin/python" -m pip install --only-binary :all: -c "$root/constraints.txt" ipykernel

# Where no package writes: packages may bring kernels of the same name.
install -D -m 644 "$build/kernel.json" "$root/share/jupyter/kernels/python3/kernel.json"
install -m 644 "$build/pip.conf" "$env/pip.conf"
# A log-in shell, which a notebook's terminal is, sets PATH anew.
if [ -d /etc/profile.d ]; then
    quoted=$(echo "$env/bin:$PATH" | sed "s/'/'\\\\''/g")
    printf "PATH=%s'%s'\nexport PATH\n" '"${PYTHONUSERBASE:+$PYTHONUSERBASE/bin:}"' "$quoted" >/etc/profile.d/ds01.sh
fi

"$python" "$build/origin.py" "$module" >"$build/origin-before.txt"
"$env/bin/python" -m pip check >"$build/check-before.txt" 2>&1 || :
# Packages are installed by an account that owns this folder and nothing else.
chown -R -h 65500:65500 "$env"
