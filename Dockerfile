# All files of a release, for both architectures, on any host with Docker: docs/releasing.md has the commands.
# What they are built with comes from Debian's mirror, as in scripts/buildroot.sh, and so do their bytes.
FROM debian:12.11-slim AS build
WORKDIR /src
ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target
COPY scripts/buildroot.sh scripts/
RUN for arch in amd64 arm64; do dpkg --add-architecture $arch; done \
    && apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(scripts/buildroot.sh packages)
COPY . .
RUN cargo fetch --quiet --locked --target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu
# The checkout is here without its repository.
ARG EC2_IPAM_COMMIT
ARG SOURCE_DATE_EPOCH
RUN plugin/release.sh /release

FROM scratch
COPY --from=build /release /release
