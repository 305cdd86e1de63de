# One image for every node, with the code in it: a node that starts needs nothing but this. Code
# under development comes with the job instead (`ray job submit --working-dir .`), and wins.
#
#     docker build -t YOUR_REGISTRY/xdc-ray:latest . && docker push YOUR_REGISTRY/xdc-ray:latest
#
# The base brings what Ray's cluster launcher and KubeRay expect of a node. It holds no CUDA: torch
# and faiss bring theirs, the driver is the machine's. Use the Ray of pyproject.toml.
FROM rayproject/ray:2.60.0-py311-cpu

# The base without CUDA has no compiler; torch.compile (learning.compile) calls one.
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
USER 1000

# `video` is for clips.decoder=cuda.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    RAY_USAGE_STATS_ENABLED=0

WORKDIR /home/ray/xdc-ray

# The packages first: they change seldom and take gigabytes. The last two are for the head, which
# starts nodes by the clouds' interfaces.
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users pipeline/__init__.py pipeline/__init__.py
RUN pip install --no-cache-dir --editable ".[gpu,export]" \
    "boto3>=1.35" "google-api-python-client>=2"

COPY --chown=ray:users . .
