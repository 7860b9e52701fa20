"""The gpu-reservation service of Shoal."""
