"""The search for victims: scenarios, their generators, filters and simulation."""
