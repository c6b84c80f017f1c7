"""Explanations and results as pictures."""
