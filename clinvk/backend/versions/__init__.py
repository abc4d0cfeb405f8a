"""Which version of a CLI is installed, and what that changes in its manifest."""
