"""Who goes first: queues, jobs, victims."""
