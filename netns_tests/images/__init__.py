"""Images without a registry: file systems of Debian packages, OCI archives, and the project's own Dockerfile."""
