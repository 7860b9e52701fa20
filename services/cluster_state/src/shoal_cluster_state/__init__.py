"""The cluster-state service of Shoal."""
