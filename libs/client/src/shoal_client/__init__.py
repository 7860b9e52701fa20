"""The command ``shoal``, and what it reads: snapshots in KAI's format, folders of Kubernetes YAML."""
