"""From owners to pod groups, pure."""
