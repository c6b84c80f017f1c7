"""What every training here has in common: settings, draws read in order, checkpoints that are whole or absent, resume."""
