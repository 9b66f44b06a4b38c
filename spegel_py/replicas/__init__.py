"""Copies of images that the cluster keeps, whatever the runtimes remove."""
