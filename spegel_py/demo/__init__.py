"""A cluster on this machine that anybody can start: real nodes, a real pull, and one of them killed in its middle."""
