"""Getting a thing from a peer: choosing one, opening it there, going on elsewhere when it fails."""
