"""Training without a store: frozen backbones in the loop, and the same tokens, batches and runs as from one.

It stands between the two stages and may load both: stage one makes a clip's tokens, stage two trains on them.
"""
