"""What the daemon does: each domain's life, its jobs and events, and the store that outlives the daemon."""
