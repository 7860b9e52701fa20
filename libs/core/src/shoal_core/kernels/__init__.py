"""Arithmetic over nodes: numba alone lives here. A slow twin in plain Python stands beside each kernel."""
