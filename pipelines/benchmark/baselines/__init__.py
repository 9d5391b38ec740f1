"""Other ways to read the same tokens, used as their documentation says: one file a library, one line in the registry.

Each reads whole clips in random order; where the library allows it, in as many threads as our reader, and into memory
that is used again. Readers of zarr open the very same store; the others get the same clips as files of their own.
"""
