"""Getting from a peer what this node does not hold: who is asked, in which order, and what if one fails."""
