"""The queue-controller service of Shoal."""
