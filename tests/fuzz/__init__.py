"""Fuzzing: every parser of bytes from outside is given inputs that nobody would think of."""
