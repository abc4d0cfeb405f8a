"""`clinvk runs …`"""
