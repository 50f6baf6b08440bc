"""Restoration with the denoiser: how good, how well calibrated and how fast it is, beside what has no prior."""
