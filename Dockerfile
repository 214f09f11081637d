# Builds the service; the image holds the program, certificates, and nothing to build with.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY bench ./bench
COPY config ./config
COPY src ./src
RUN cargo build --release --locked --bin im-callback && strip target/release/im-callback

FROM debian:bookworm-slim
# `unread` and `send` may be used from inside the container against https addresses.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home im-callback \
    && install -d -m 0700 -o 10001 /var/lib/im-callback
COPY --from=build /src/target/release/im-callback /usr/local/bin/im-callback
USER 10001
ENV IM_CALLBACK__HTTP__LISTEN=0.0.0.0:8080 \
    IM_CALLBACK__SPOOL__PATH=/var/lib/im-callback/spool
# Callbacks that MongoDB has not confirmed yet, and the spool's id: keep it.
VOLUME /var/lib/im-callback
EXPOSE 8080
# Healthy as long as callbacks are taken, also while MongoDB is away. With another address than the configured one,
# such as `serve --listen`, give it with --url.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["im-callback", "healthcheck"]
ENTRYPOINT ["im-callback"]
CMD ["serve"]
