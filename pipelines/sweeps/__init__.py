"""Sweeps as files: the rows of a table as overrides of a recipe, with the numbers that a paper prints for them."""
