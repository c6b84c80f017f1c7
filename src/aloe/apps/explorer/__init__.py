"""The explanation explorer: what `aloe app` serves."""
