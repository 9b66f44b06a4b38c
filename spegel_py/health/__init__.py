"""Which peers to trust now: checks, failed requests, silence and trends give one factor."""
