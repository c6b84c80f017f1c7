"""What every folder of the package stands on: errors, checked settings, modules' former names."""
