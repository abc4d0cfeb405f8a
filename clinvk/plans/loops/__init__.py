"""Steps of a chain that are repeated until a condition holds."""
