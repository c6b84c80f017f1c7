"""Fine-tuning: a B-cos student learns labels; from a converted teacher this is vanilla B-cosification."""
