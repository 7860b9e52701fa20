"""The shard-controller service of Shoal."""
