"""Turns a request into events."""
