# The image: one static binary, the roots it trusts, and nothing to run beside it.
#
#   docker build -t chekt-operator .
#   docker buildx build --platform linux/amd64,linux/arm64 .
#
# Which commit it is made from is said by the caller, since the history is not part of the context:
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" \
#       --build-arg CREATED="$(TZ=UTC git log -1 --format=%cd --date=iso-strict-local)" .
#
# `make image` makes the last stage without an engine, from a binary that it builds itself.

ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

# On the builder's own architecture: the compiler knows the others, and is not emulated.
FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-${DEBIAN} AS builder
ARG TARGETARCH
# For the C parts. What is there already for the machine's own architecture is left as it is.
RUN case "$TARGETARCH/$(dpkg --print-architecture)" in \
        amd64/amd64 | arm64/arm64 | /*) ;; \
        arm64/*) apt-get update && apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;; \
        amd64/*) apt-get update && apt-get install -y --no-install-recommends gcc-x86-64-linux-gnu libc6-dev-amd64-cross ;; \
        *) echo "no image is made for $TARGETARCH" >&2; exit 1 ;; \
    esac
WORKDIR /chekt-operator
COPY . .
ARG REVISION=
ARG SOURCE_DATE_EPOCH=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/chekt-operator/target \
    export ARCH="$TARGETARCH" CHEKT_BUILD_COMMIT="$REVISION" && \
    packaging/binary.sh /out/chekt-operator && \
    packaging/rootfs.sh /out/chekt-operator /out/rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="chekt-operator" \
      org.opencontainers.image.description="A Kubernetes operator for CHeKT webhooks: registered exactly once, kept as written, every alarm an Event" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=builder /out/rootfs/ /
# By number, which `runAsNonRoot` can check. Nothing is written outside of the volumes: a read-only root is enough.
USER 65532:65532
# `webhooks` and the probes of the receiver, the probes of the controller.
EXPOSE 8080 8081 8082
ENTRYPOINT ["/usr/local/bin/chekt-operator"]
