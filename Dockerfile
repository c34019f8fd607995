# The image of pleo-auth-proxy, and the image of the simulator:
#
#   docker build -t pleo-auth-proxy .
#   docker build -t pleo-sim --target simulator .
#
# They contain a static program, and no shell, packages or root user. The same commit, Go
# image and SOURCE_DATE_EPOCH produce the same bytes.
#
# GO_IMAGE is the image to build in; a reference with a digest pins it.
ARG GO_IMAGE=golang:1.26.8-bookworm

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# make image runs the same rule on the host, and replaces this stage by its result.
RUN make image-files PLATFORMS=$TARGETOS/$TARGETARCH IMAGE_FILES=/image

FROM scratch AS simulator
ARG TARGETARCH
LABEL org.opencontainers.image.title="pleo-sim" \
      org.opencontainers.image.description="A simulated Pleo to develop against" \
      org.opencontainers.image.source="https://github.com/pleo-auth-proxy/pleo-auth-proxy" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/$TARGETARCH/simulator/ /
USER 65532:65532
EXPOSE 8490
ENTRYPOINT ["/pleo-sim"]

FROM scratch AS proxy
ARG TARGETARCH
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pleo-auth-proxy" \
      org.opencontainers.image.description="Authenticating reverse proxy for the Pleo API" \
      org.opencontainers.image.source="https://github.com/pleo-auth-proxy/pleo-auth-proxy" \
      org.opencontainers.image.documentation="https://github.com/pleo-auth-proxy/pleo-auth-proxy/blob/main/docs/deploy.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/$TARGETARCH/proxy/ /
# New volumes mounted here inherit the owner.
COPY --from=build --chown=65532:65532 /image/$TARGETARCH/state/ /var/lib/
# The default of data_dir, which the configuration can override.
ENV STATE_DIRECTORY=/var/lib/pleo-auth-proxy
USER 65532:65532
# Clients, customers' browsers, probes and metrics; each as configured.
EXPOSE 8484 8486 8487
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
  CMD ["/pleo-auth-proxy", "healthcheck"]
ENTRYPOINT ["/pleo-auth-proxy"]
CMD ["serve"]
