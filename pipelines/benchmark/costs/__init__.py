"""``mettle bench costs``: what the paper's tables of costs count, measured on this machine, beside what they print."""
