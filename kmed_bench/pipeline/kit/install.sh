#!/bin/sh
# Installs kmed-bench @VERSION@ from the folder that this file is in, without a network:
#   sh install.sh [--venv FOLDER] [--public-key FILE] [--python PROGRAM]
# --venv FOLDER      where the Python environment goes (.venv in the current folder)
# --public-key FILE  Ed25519 key in PEM that must have signed the kit; needs openssl 3
# --python PROGRAM   Python @PYTHON@ (python@PYTHON@ or python3)
# The same command goes on where it was interrupted.
set -eu
unset CDPATH PYTHONPATH PYTHONHOME
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 2
}
kit=$(cd "$(dirname "$0")" && pwd -P)
venv=.venv key='' python=''
while [ $# -gt 0 ]; do
    case $1 in
        --venv | --public-key | --python) [ $# -gt 1 ] || fail "$1 needs a value." ;;
        *) fail "argument '$1' is not understood; the first lines of $0 have the options." ;;
    esac
    case $1 in
        --venv) venv=$2 ;;
        --public-key) key=$2 ;;
        --python) python=$2 ;;
    esac
    shift 2
done

here=$(pwd -P)
case $venv in
    /*) ;;
    *) venv=$here/$venv ;;
esac
case $here/:$venv/ in
    "$kit"/* | *:"$kit"/*) fail 'the kit stays as it is: run this from a folder outside of it, with --venv outside of it.' ;;
esac

echo '1/5 the machine'
[ "$(uname -s) $(uname -m)" = 'Linux @MACHINE@' ] ||
    fail "this machine is $(uname -s) $(uname -m), and the kit is for Linux @MACHINE@: make one for it with offline-kit --platform."
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc 2\.\([0-9]*\).*/\1/')
case $glibc in
    '' | *[!0-9]*) fail 'this machine has no glibc (Alpine, for example); the wheels need glibc 2.@GLIBC@ or newer.' ;;
esac
[ "$glibc" -ge @GLIBC@ ] ||
    fail "this machine has glibc 2.$glibc, and the kit needs 2.@GLIBC@: make one with offline-kit --platform manylinux_2_${glibc}_@MACHINE@."
for program in ${python:+"$python"} python@PYTHON@ python3; do
    version=$("$program" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=''
    [ "$version" = '@PYTHON@' ] && break
    [ -z "$python" ] || fail "$python is Python ${version:-(not found)}, and the kit is for @PYTHON@."
done
[ "$version" = '@PYTHON@' ] ||
    fail 'there is no Python @PYTHON@: install it, name it with --python, or make a kit for the one that is here with offline-kit --python.'
"$program" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$program has no venv or ensurepip; install them (Debian, Ubuntu: python@PYTHON@-venv)."
if [ ! -e "$venv" ]; then
    mkdir -p "$venv"
    free=$(df -Pk "$venv" | awk 'NR == 2 { print $4 }')
    rmdir "$venv"
    [ "$free" -ge @NEEDED_KIB@ ] ||
        fail "$venv needs $((@NEEDED_KIB@ / 1024)) MiB, and its disk has $((free / 1024)) MiB: free some, or name another with --venv."
elif [ ! -e "$venv/pyvenv.cfg" ]; then
    fail "$venv exists and is no Python environment; name another with --venv."
fi

echo '2/5 the files'
if [ -n "$key" ]; then
    command -v openssl >/dev/null || fail 'a public key was given, and openssl is not here to check the signature.'
    [ -e "$kit/SHA256SUMS.sig" ] || fail 'a public key was given, and the kit is not signed.'
    openssl pkeyutl -verify -rawin -pubin -inkey "$key" -sigfile "$kit/SHA256SUMS.sig" -in "$kit/SHA256SUMS" >/dev/null ||
        fail "the signature is not of this key: the kit was changed, or signed with another key. Ask who made it. (openssl must be 3.0 or newer: $(openssl version))"
    echo 'The signature holds.'
elif [ -e "$kit/SHA256SUMS.sig" ]; then
    echo 'The kit is signed; --public-key FILE checks by whom.'
fi
(cd "$kit" && sha256sum --check --strict --quiet SHA256SUMS) || fail 'the kit is damaged (above); copy it again.'
listed=$(wc -l <"$kit/SHA256SUMS")
found=$(find "$kit" ! -type d ! -path "$kit/SHA256SUMS" ! -path "$kit/SHA256SUMS.sig" | wc -l)
[ "$listed" -eq "$found" ] || fail "the kit has $found files, and its list $listed; copy it again into an empty folder."

echo '3/5 @N_PACKAGES@ packages, @INSTALLED_MB@ MB, into' "$venv (minutes)"
[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$program" -m venv "$venv"
PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated --disable-pip-version-check install --quiet --no-index \
    --no-cache-dir --find-links "$kit/wheels" --require-hashes --requirement "$kit/kit.lock" ||
    fail 'pip could not install the wheels (above).'

cache=${KMED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kmed-bench}/weights
echo '4/5 weights into' "$cache"
for file in "$kit"/weights/*; do
    [ -e "$file" ] || continue
    target=$cache/${file##*/}
    cmp -s "$file" "$target" && continue
    mkdir -p "$cache"
    cp "$file" "$target.part" && mv "$target.part" "$target" || fail "$target can't be written."
done

echo '5/5 kmed-bench doctor'
"$venv/bin/kmed-bench" doctor || echo 'What is MISSING above is not in this kit; the rest works.'
echo "Installed. Begin with: . '$venv/bin/activate' && kmed-bench run --profile demo"
