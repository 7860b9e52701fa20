"""A local control plane, an embedded NATS, and the suite on it, on 127.0.0.1."""
