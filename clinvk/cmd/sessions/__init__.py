"""`clinvk sessions …`"""
