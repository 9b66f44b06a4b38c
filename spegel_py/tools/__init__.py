"""Small tools that any room may use: each job is done once, here.

They know nothing of the rooms.
"""
