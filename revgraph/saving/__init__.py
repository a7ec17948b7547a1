"""Analyzers and their results as files: archives, exported SavedModels, provenance."""
