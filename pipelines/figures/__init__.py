"""Figures: pure functions from arrays to matplotlib figures, and what computes the arrays from trained runs."""
