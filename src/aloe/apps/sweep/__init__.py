"""Sweeps: a grid of alignments, each evaluated, one row per run (paper, Table B8 and Figure B2)."""
