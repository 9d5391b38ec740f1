"""What this machine gives, beside what it could give: one file a bench, one line in ``registry.py``."""
