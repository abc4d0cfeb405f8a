"""What can be done with sessions, whatever store holds them."""
