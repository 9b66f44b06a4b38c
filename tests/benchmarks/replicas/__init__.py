"""Replicas in a cluster of many nodes, in virtual time."""
