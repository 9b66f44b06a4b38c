"""What is changed and looked at on the machine a node runs on."""
