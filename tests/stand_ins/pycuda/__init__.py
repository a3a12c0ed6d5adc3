"""A stand-in for pycuda: see ``driver.py``."""

VERSION_TEXT = "stand-in"
