"""Handwritten digits from training to deployment: the demonstration behind ``make demo``."""
