"""This node's own condition: what is wrong with it, what is done about it, and the record of both."""
