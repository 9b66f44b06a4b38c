"""What sharing in flight is worth: simulated to 10,000 nodes."""
