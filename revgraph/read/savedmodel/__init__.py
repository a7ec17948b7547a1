"""Reads SavedModels."""
