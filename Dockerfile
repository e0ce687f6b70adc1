# Two images: `service`, the last stage and so the default, and `train`. docker-compose.yml builds and runs both.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
# HOME: caches at run time are written to the tmpfs. USER: it needs no entry in /etc/passwd.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=fashion \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
# The base image's pip installs into this environment, so that no image has a second pip.
RUN python3 -m venv --without-pip /opt/venv


FROM base AS installer
ENV PIP_CACHE_DIR=/root/.cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PYTHON=/opt/venv/bin/python \
    PIP_ROOT_USER_ACTION=ignore
# torch comes from PyTorch's own index, which has CPU builds for every architecture. If the index does not answer or lacks the
# version, the build fails; TORCH_INDEX= (empty) takes pip's default index. The dependencies of torch are in requirements/,
# with a hash for each file, so that the index they come from does not matter.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# --chmod, here and below: in a clone made under a strict umask only the owner can read the files.
COPY --chmod=755 docker/install-torch docker/install-requirements /usr/local/bin/


FROM installer AS service-packages
# The newest version whose CPU build passed the container tests.
ARG TORCH_VERSION=2.13.0
# Headers, tests, static libraries, and OpenVINO's libraries for other devices and file formats, are removed in the layer that
# adds them.
RUN --mount=type=cache,target=/root/.cache/pip \
    install-torch "torch==${TORCH_VERSION}" \
    && cd /opt/venv/lib/python3*/site-packages/torch \
    && rm -rf include test share/cmake lib/*.a lib/*test*.so bin/*test* bin/*Test bin/protoc*
COPY requirements requirements
RUN --mount=type=cache,target=/root/.cache/pip \
    install-requirements service \
    && cd /opt/venv/lib/python3*/site-packages/openvino \
    && rm -rf include cmake libs/cache.json libs/*intel_gpu* libs/*intel_npu* libs/*_frontend*


FROM installer AS train
# The versions that the tests run with; torch and torchvision must come from the same index.
ARG TRAIN_TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1
RUN --mount=type=cache,target=/root/.cache/pip \
    install-torch "torch==${TRAIN_TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
COPY requirements requirements
RUN --mount=type=cache,target=/root/.cache/pip \
    install-requirements service train
COPY --chmod=755 docker/as-owner-of-models /usr/local/bin/
COPY --chmod=755 classifier classifier
COPY --chmod=755 training training
# On SIGINT, as on Ctrl-C, training.run saves its best epoch. Process 1 ignores SIGTERM.
STOPSIGNAL SIGINT
ENTRYPOINT ["as-owner-of-models", "python", "-m", "training.run"]


FROM base AS service
# What only an intruder would use: pip and its copies, and perl, which nothing here needs.
RUN dpkg --purge --force-depends --force-remove-essential perl-base \
    && find /usr -depth \( -name pip -o -name 'pip[0-9-]*' -o -name ensurepip \) -exec rm -rf {} +
COPY --from=service-packages /opt/venv /opt/venv
COPY --chmod=755 LICENSE .
COPY --chmod=755 classifier classifier
COPY --chmod=755 service service
COPY --chmod=755 models models
ENV SERVICE_HOST=0.0.0.0 \
    SERVICE_PORT=8000
EXPOSE 8000
# The first user of most Linux machines, who can read a mounted ./models even under a strict umask.
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SERVICE_PORT\"]}/health')"]
CMD ["python", "-m", "service"]
