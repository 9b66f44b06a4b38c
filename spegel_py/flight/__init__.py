"""Sharing what is still being pulled: one node fetches it upstream, the others take it from it, and from each other."""
