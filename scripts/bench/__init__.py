"""Measures speed and memory as ratios to a rival that does the same work in the same run."""
