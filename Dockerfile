# Images for the nodes of a cluster, head and workers alike. compose.yaml and docs/cluster.md name them.
#
#   docker build --platform linux/amd64 --target cpu -t lucidflux:cpu .     everything that needs no torch
#   docker build --platform linux/amd64 --target cuda -t lucidflux:cuda .   CLIP-IQA, training, restoring on NVIDIA GPUs
#
# Versions are those of requirements/, which hold for Python 3.11 on Linux x86_64.

FROM python:3.11-slim-bookworm AS cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
# wget is what KubeRay asks a node's health with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lucidflux
WORKDIR /opt/lucidflux
COPY requirements/cluster-py311.txt requirements/
RUN pip install --require-hashes -r requirements/cluster-py311.txt
COPY pyproject.toml README.md LICENSE NOTICE cli.py ./
COPY lucidflux_data lucidflux_data
COPY lucidflux_model lucidflux_model
COPY benchmarks benchmarks
COPY pipelines pipelines
RUN pip install --no-deps --no-build-isolation .
RUN lucidflux-data --version && python -c "import cv2, gcsfs, huggingface_hub, pillow_heif, ray, s3fs"
USER lucidflux
WORKDIR /home/lucidflux
CMD ["lucidflux-data", "--help"]

# torch's own wheels hold CUDA; the host has the driver and NVIDIA's container runtime. The metrics of the extra `iqa` are
# left out, as pyiqa is not for commercial use.
FROM cpu AS cuda
USER root
WORKDIR /opt/lucidflux
COPY requirements/cuda-py311.txt requirements/
RUN pip install --require-hashes -r requirements/cuda-py311.txt
RUN lucidflux --version && python -c "import accelerate, diffusers, open_clip, spandrel, torch, transformers"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER lucidflux
WORKDIR /home/lucidflux
CMD ["lucidflux", "--help"]
