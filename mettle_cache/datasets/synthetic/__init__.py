"""Small data sets that we write ourselves, as real media files, for the demo and for tests."""

from mettle_cache.datasets.synthetic.ave import write_demo_ave

__all__ = ["write_demo_ave"]
