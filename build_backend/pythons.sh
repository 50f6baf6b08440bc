#!/bin/sh
# Prints the path of each Python that the package can be built for, one a line, wherever it is commonly kept.
# Arguments: names such as python3.12, or paths; without any, python3 and every supported version.
# A name counts if it is CPython 3.10 to 3.13 and has venv, pip's installer and the C headers.

usable='
import ensurepip, os, platform, sys, sysconfig, venv
supported = platform.python_implementation() == "CPython" and (3, 10) <= sys.version_info[:2] <= (3, 13)
headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print("%d.%d" % sys.version_info[:2], sys.executable)
sys.exit(not (supported and headers))
'

[ $# -gt 0 ] || set -- python3 python3.12 python3.11 python3.13 python3.10

seen=' '
for name in "$@"; do
    version=${name##*python}
    for candidate in "$name" "$HOME"/.pyenv/versions/"$version".*/bin/"$name" /usr/local/bin/"$name" /usr/bin/"$name" \
        "$HOME"/.local/share/uv/python/cpython-"$version".*/bin/"$name"; do
        # pyenv's shims exist for versions that are not selected and then fail; only running one tells.
        found=$("$candidate" -c "$usable" 2>/dev/null) || continue
        case $seen in
            *" ${found%% *} "*) ;;
            *) seen="$seen${found%% *} "; echo "${found#* }" ;;
        esac
        break
    done
done

if [ "$seen" = ' ' ]; then
    echo "No usable Python found among: $*" >&2
    echo "rust_diffusion needs CPython 3.10, 3.11, 3.12 or 3.13 with venv and C headers" >&2
    echo "(on Debian and Ubuntu: apt install python3-venv python3-dev)." >&2
    exit 1
fi
