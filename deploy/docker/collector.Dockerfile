# docker build -f deploy/docker/collector.Dockerfile -t polproof-collector:0.1.0 .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends protobuf-compiler && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p polproof-collector -p polproof-cli

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/polproof-collector /usr/bin/polproof-collector
COPY --from=build /src/target/release/polproof /usr/bin/polproof
USER 65532:65532
ENTRYPOINT ["/usr/bin/polproof-collector"]
