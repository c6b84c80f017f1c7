"""Similarity over sets of images: cached features, nearest neighbours, and pictures of why they are near."""
