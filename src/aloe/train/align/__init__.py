"""Alignment: a converted student learns to reproduce its teacher's features on unlabelled images."""
