"""``make gpu-check``: what a machine with a GPU must show, in parts that can be run alone, without a network.

It runs from a checkout in any Python that has PyTorch: each part says which packages it lacks there, and the others
run. Nothing here is installed, downloaded or trained for good.
"""
