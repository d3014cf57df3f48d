# The runtime as an image: nothing in it but the binary, the C library and the authorities that
# sign certificates. No shell; user 65532; the root may be read-only.
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) -t arcpd .

FROM rust:1.95-bookworm AS build
# What the binary is made of, inside it and beside it.
RUN cargo install --locked cargo-auditable@0.7.7 cargo-cyclonedx@0.5.9
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY README.md LICENSE ./
ARG SOURCE_DATE_EPOCH
# The same source makes the same bytes, wherever it lies and whenever it is built.
ENV CARGO_INCREMENTAL=0 RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo -C link-arg=-Wl,--build-id=none -C strip=symbols"
RUN cargo auditable build --locked --profile dist --bin arcpd \
    && cargo cyclonedx --format json --spec-version 1.5 --override-filename sbom.cdx \
    && mkdir -p /out/data && cp target/dist/arcpd LICENSE sbom.cdx.json /out/

FROM gcr.io/distroless/cc-debian12:nonroot AS image
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="arcpd" \
      org.opencontainers.image.description="The ARCP v1.1 runtime: durable, resumable AI-agent jobs over gRPC and WebSocket" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/arcpd /usr/local/bin/arcpd
COPY --from=build /out/LICENSE /out/sbom.cdx.json /usr/share/doc/arcpd/
COPY --from=build --chown=65532:65532 /out/data /var/lib/arcpd
USER 65532:65532
VOLUME /var/lib/arcpd
EXPOSE 7777 7778
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["/usr/local/bin/arcpd", "healthcheck", "--server", "http://127.0.0.1:7778", "--service", "readiness"]
ENTRYPOINT ["/usr/local/bin/arcpd"]
# Arguments, not variables: those would go before a configuration file.
CMD ["serve", "--listen=0.0.0.0:7777", "--admin-listen=0.0.0.0:7778", "--data-dir=/var/lib/arcpd/store"]
