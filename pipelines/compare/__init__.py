"""What a codec costs the heads that learn from it: training on several codecs, and the intervals of their differences.

``intervals`` is the one place for intervals of paired differences; other studies use it as well.
"""
