"""The stores and runs of some folders: what there is, and what can go. No media are opened and no tokens are read."""
