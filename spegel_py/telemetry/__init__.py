"""What this node tells of itself: structured logs and Prometheus metrics."""
