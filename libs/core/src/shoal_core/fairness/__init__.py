"""Who deserves how much."""
