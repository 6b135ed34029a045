#!/bin/sh
# Makes the virtual environment $VENV with the pinned packages of docker/constraints.txt.
#
# torch is installed first and alone: its default build on Linux brings gigabytes of CUDA libraries, which a
# machine without an NVIDIA GPU cannot use. Such a machine gets the CPU build, from (first that has it)
#   1. TORCH_INDEX, where given,
#   2. a wheel that pip already finds on this machine (PIP_FIND_LINKS and the like),
#   3. PyTorch's own index of CPU builds.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH_INDEX:=}"
constraints=docker/constraints.txt

"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1); Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 ..." >&2
    exit 1
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --quiet "$@"; }

torch=$(grep '^torch==' $constraints)
if [ -n "$TORCH_INDEX" ]; then
    pip install --index-url "$TORCH_INDEX" "$torch"
elif command -v nvidia-smi >/dev/null 2>&1 || [ "$(uname)" != Linux ]; then
    pip install "$torch"
elif pip download --no-deps --no-index --dest "$VENV/torch-wheel" "$torch" >/dev/null 2>&1; then
    pip install -c $constraints "$VENV"/torch-wheel/*.whl
    rm -rf "$VENV/torch-wheel"
else
    pip install --index-url https://download.pytorch.org/whl/cpu "$torch"
fi
pip install -c $constraints -e '.[dev]'
