# The image of a node. BASE is any Debian or Ubuntu with Python 3.11 or newer among its packages; the same commands build it
# for amd64 and arm64, each on (or emulating) its own kind of machine, since one library is compiled:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/spegel-py:0.1.0 --push .
# For a release name BASE with its digest, and add --attest type=sbom --attest type=provenance.
# There is no HEALTHCHECK, since /livez and /readyz are asked by the kubelet, and no init: the node starts no other process.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS builder
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates gcc libc6-dev libgmp-dev python3-dev python3-pip python3-venv
WORKDIR /src
COPY requirements.lock requirements-build.lock pyproject.toml README.md LICENSE ./
COPY spegel_py spegel_py
# Every package is held against the hashes of its lock. What comes as source only, as fastecdsa does,
# is built with the locked build tools, which stay in the environment of the build.
# A pip.conf, and a certificate that it names as /run/secrets/ca.crt, may be lent to the build; neither is kept.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 \
    && python3 -m venv --without-pip /opt/build \
    && build() { python3 -m pip --python /opt/build/bin/python "$@"; } \
    && build install --require-hashes -r requirements-build.lock \
    && build wheel --no-deps --no-build-isolation --use-pep517 --wheel-dir /opt/wheels \
        --require-hashes -r requirements.lock \
    && build wheel --no-deps --no-build-isolation --wheel-dir /opt/wheels .
# An environment without pip, at the path that it has in the end, from those wheels alone. Its only program is
# spegel-py: dependencies bring some 40 others, demos among them.
# Compiled modules are told by their content, so that neither copying them nor a read-only root has Python compile anew.
RUN python3 -m venv --without-pip /opt/spegel-py \
    && python3 -m pip --python /opt/spegel-py/bin/python install --quiet --no-cache-dir --no-compile \
        --no-index --find-links /opt/wheels 'spegel-py[tracing]' \
    && find /opt/spegel-py/bin -mindepth 1 ! -name 'python*' ! -name spegel-py -delete \
    && find /opt/spegel-py/lib -name '*.so' -exec sh -c 'objcopy --strip-unneeded "$1"' _ {} \; \
    && /opt/spegel-py/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/spegel-py/lib

FROM ${BASE}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates libgmp10 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /usr/share/doc/* /usr/share/man/*
COPY --from=builder /opt/spegel-py /opt/spegel-py
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="spegel-py" \
    org.opencontainers.image.description="A peer-to-peer container image cache for Kubernetes nodes and plain containerd hosts" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/spegel-py/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Nobody in particular; who mounts containerd's socket runs it as the user who may open that, which is root as a rule.
USER 65532:65532
EXPOSE 5000/tcp 5001/tcp 9090/tcp
ENTRYPOINT ["spegel-py"]
CMD ["--help"]
