"""The binder service of Shoal."""
