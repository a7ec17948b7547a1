"""The speed layer."""
