"""The admission service of Shoal."""
