#!/bin/sh
# Takes from the virtual environment $1 what a job never reads, then compiles what is left: sh docker/slim.sh VENV
set -eu
venv=$1
site=$(echo "$venv"/lib/python3.*/site-packages)

# The viewer's server, an optional part of TensorBoard: the job only writes its files.
"$venv/bin/python" -m pip --quiet uninstall -y tensorboard-data-server
"$venv/bin/python" -m pip --quiet uninstall -y pip

# torch: its own tests, headers and static libraries (nothing is compiled here), and tools for building extensions.
rm -rf "$site/torch/test" "$site/torch/include" "$site/torch/share/cmake"
find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
# NVIDIA's wheels: headers, static libraries.
rm -rf "$site"/nvidia/*/include
find "$site" -name '*.a' -delete
# Suites of tests, and stubs for type checkers. `testing` folders stay, as libraries import them.
find "$site" -depth -type d -name tests -exec rm -rf {} +
find "$site" -name '*.pyi' -delete

# Nobody can write bytecode later, nor change a source: none is compared with its source at each start.
find "$site" -depth -type d -name __pycache__ -exec rm -rf {} +
"$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" || {
    # Templates of some packages are no Python; a program that does not start shows in the image's tests.
    echo "not every file could be compiled (see above)" >&2
}
