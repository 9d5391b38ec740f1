"""``python -m mettle_cache``: the ``mettle`` command, for where the script is not on the path."""

from mettle_cache.cli.main import main

if __name__ == "__main__":
    main()
