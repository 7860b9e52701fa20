"""Where a pod may run, and where it runs best."""
