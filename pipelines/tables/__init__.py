"""Tables of trained and evaluated heads: means over seeds, differences from one row, the paper's column beside."""
