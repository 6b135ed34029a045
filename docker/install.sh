#!/bin/sh
# Makes the virtual environment $VENV with the pinned packages of docker/constraints.txt: for developing (the program
# in place, tests and tools), or for an image the packages that the file REQUIREMENTS names.
#
# torch is installed first and alone: its default build on Linux brings gigabytes of CUDA libraries, which a
# machine without an NVIDIA GPU cannot use. TORCH_VARIANT is cuda, or cpu where no such GPU is found. The CPU build
# comes from (first that has it)
#   1. TORCH_INDEX, where given (of either variant),
#   2. a wheel that pip already finds on this machine (PIP_FIND_LINKS and the like),
#   3. PyTorch's own index of CPU builds.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${REQUIREMENTS:=}" "${TORCH_INDEX:=}" "${TORCH_VARIANT:=}"
constraints=docker/constraints.txt

"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1); Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 ..." >&2
    exit 1
}
if [ -z "$TORCH_VARIANT" ]; then
    TORCH_VARIANT=cpu
    if command -v nvidia-smi >/dev/null 2>&1 || [ "$(uname)" != Linux ]; then TORCH_VARIANT=cuda; fi
fi
case $TORCH_VARIANT in
cuda | cpu) ;;
*)
    echo "error: TORCH_VARIANT is $TORCH_VARIANT; cuda or cpu is needed" >&2
    exit 1
    ;;
esac
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --quiet "$@"; }

torch=$(grep '^torch==' $constraints)
if [ -n "$TORCH_INDEX" ]; then
    pip install --index-url "$TORCH_INDEX" "$torch"
elif [ "$TORCH_VARIANT" = cuda ]; then
    pip install "$torch"
elif pip download --no-deps --no-index --dest "$VENV/torch-wheel" "$torch" >/dev/null 2>&1; then
    pip install -c $constraints "$VENV"/torch-wheel/*.whl
    rm -rf "$VENV/torch-wheel"
else
    pip install --index-url https://download.pytorch.org/whl/cpu "$torch"
fi

if [ -n "$REQUIREMENTS" ]; then
    pip install -c $constraints -r "$REQUIREMENTS"
else
    pip install -c $constraints -e '.[dev]'
fi
