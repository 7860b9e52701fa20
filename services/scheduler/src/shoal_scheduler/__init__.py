"""The scheduler service of Shoal."""
