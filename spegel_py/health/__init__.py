"""Which peers to trust now: checks, failed requests, heartbeats and trends become one factor. Decisions are pure."""
