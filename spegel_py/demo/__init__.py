"""`spegel-py demo`: a cluster of real nodes on this machine, with pulls, a kill and a new image."""
