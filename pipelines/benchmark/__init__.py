"""Benches: what this machine does, beside what it could do. Each is a file, and a line in ``registry.py``."""
