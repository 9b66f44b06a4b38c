"""Images that a person or a list wants on nodes before a runtime asks for them."""
