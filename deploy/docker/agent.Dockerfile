# docker build -f deploy/docker/agent.Dockerfile -t polproof-agent:0.1.0 .
FROM rust:1.95-bookworm AS build
# A second compiler with a ready `core` for BPF, and the LLVM that fits it.
RUN apt-get update \
 && apt-get install -y --no-install-recommends rustc-web libstd-rust-web-dev-bpf llvm-22-dev clang-22 protobuf-compiler \
 && rm -rf /var/lib/apt/lists/*
RUN LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22
WORKDIR /src
COPY . .
# The BPF object first: the agent embeds it.
RUN cargo xtask build
RUN POLPROOF_BPF_OBJECT=/src/target/bpf/bpfel-unknown-none/bpf/polproof-bpf \
    cargo build --locked --release -p polproof-agent

FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/polproof-agent /usr/bin/polproof-agent
# Root, with the few capabilities that the DaemonSet leaves it.
USER 0:0
ENTRYPOINT ["/usr/bin/polproof-agent"]
