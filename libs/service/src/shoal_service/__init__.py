"""What makes a process a good citizen."""
