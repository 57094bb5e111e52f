# The images of `Dockerfile`, from programs that exist: nothing is compiled or downloaded. README.md has the commands that
# prepare the context. Both files have the same settings; a test compares them.
FROM scratch AS base
ENV PATH=/usr/bin
COPY certificates/ /etc/ssl/certs/
USER 65532:65532
STOPSIGNAL SIGTERM

FROM base AS relay
COPY relay/ /usr/bin/
COPY --chown=65532:65532 relay-state/ /var/lib/
ENV RELAY_CONFIG=/etc/integration-relay/relay.toml
ENV SQLITE_TMPDIR=/var/lib/integration-relay
VOLUME /var/lib/integration-relay
EXPOSE 8443
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/usr/bin/integration-relay", "health"]
ENTRYPOINT ["/usr/bin/integration-relay"]
CMD ["serve"]

FROM base AS bridge
COPY bridge/ /usr/bin/
COPY --chown=65532:65532 bridge-state/ /var/lib/
ENV BRIDGE_CONFIG=/etc/integration-bridge/bridge.toml
ENV BRIDGE_DATA_DIR=/var/lib/integration-bridge
VOLUME /var/lib/integration-bridge
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/usr/bin/integration-bridge", "status"]
ENTRYPOINT ["/usr/bin/integration-bridge"]
CMD ["run"]
