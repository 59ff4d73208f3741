"""Container images of our services, all from one Dockerfile."""
