"""Measurements, side by side in one run; see RESULTS.md for figures and LOG.md for failures."""
