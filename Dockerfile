# The job in an image: docker build -t segmenter-rl-job . ; `make image` does it with docker, podman or buildah.
#
# BASE_IMAGE      any glibc image with Python 3.11 to 3.13, its venv and, in the build alone, pip. For a build that can
#                 be repeated name a digest that you have verified: --build-arg BASE_IMAGE=python@sha256:...
# TORCH_VARIANT   cuda: PyTorch's wheels, which bring their own CUDA libraries (the machine brings the driver);
#                 cpu: several gigabytes less.
# TORCH_INDEX     another index for torch, such as PyTorch's for another version of CUDA.
# EXTRAS          optional dependencies of pyproject.toml; auto: sa2va with cuda, none with cpu.
# VERSION, REVISION   for the labels, and for the record of each run.
# Settings of pip (an index, a certificate) come as the secret `pip_conf`, so that no layer keeps them.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS requirements
ARG TORCH_VARIANT=cuda
ARG EXTRAS=auto
WORKDIR /build
COPY pyproject.toml docker/requirements.py ./
# The time of the list would count as a change of it: with it, what is installed would be installed again.
RUN python3 requirements.py "$TORCH_VARIANT" "$EXTRAS" >requirements.txt && touch -d @0 requirements.txt

FROM ${BASE_IMAGE} AS packages
ARG TORCH_VARIANT=cuda
ARG TORCH_INDEX
WORKDIR /build
COPY docker/constraints.txt docker/install.sh docker/slim.sh docker/
COPY --from=requirements /build/requirements.txt ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    VENV=/opt/venv REQUIREMENTS=requirements.txt PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 sh docker/install.sh \
    && sh docker/slim.sh /opt/venv

FROM packages AS program
WORKDIR /app
COPY job job
# Compiled here, as nobody can write beside the sources later; unchecked, as nobody can change them either.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash job
COPY specs specs
COPY pyproject.toml LICENSE entrypoint.sh ./
# The output is for any uid, where nothing is mounted over it. (`doctor` reads pyproject.toml.)
RUN install -d -m 1777 output && chmod 755 entrypoint.sh

FROM ${BASE_IMAGE}
COPY --from=packages /opt/venv /opt/venv
COPY --from=program /app /app
# Everything that a library may want to keep goes below /tmp, the one folder that a read-only container needs beside
# its output; large models want a folder of the user mounted at /tmp/cache. Some libraries ask for a user's name, which
# an arbitrary uid lacks. Nothing is imported from the working directory.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=job \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    TORCH_HOME=/tmp/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    MPLCONFIGDIR=/tmp/cache/matplotlib
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["/app/entrypoint.sh"]
CMD ["--help"]
# Last, as they change with every commit.
ARG VERSION=unknown
ARG REVISION=unknown
ENV JOB_IMAGE=${VERSION} \
    JOB_REVISION=${REVISION}
LABEL org.opencontainers.image.title="segmenter-rl-job" \
      org.opencontainers.image.description="Trains a reward network, fine-tunes by reinforcement learning and judges promptable segmentation models." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
