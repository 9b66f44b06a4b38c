"""A cluster on this machine that anybody can start: real nodes and pulls, one of them killed, an image new to all."""
