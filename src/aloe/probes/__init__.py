"""Frozen features to numbers."""
