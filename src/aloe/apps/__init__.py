"""What stands on top: the explorer, the study, grounding, export, publishing, sweeps, the benchmark and the demo."""
