"""The only door to NATS."""
