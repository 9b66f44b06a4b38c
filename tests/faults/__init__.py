"""Programs that break real clusters and hold the damage against bounds.

`chaos` breaks nodes and links in the middle of pulls, `crowd` breaks nodes that share an image in
flight, `drill` times how a cluster detects and heals faults, and `rogue` is a hostile node that
chaos runs. They share the four modules beside this file.
"""
