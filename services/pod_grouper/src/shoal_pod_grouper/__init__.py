"""The pod-grouper service of Shoal."""
