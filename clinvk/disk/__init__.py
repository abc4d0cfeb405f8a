"""Files and locks that survive crashes."""
