"""The scheduling policy as a library."""
