"""Decoding: pictures, recordings and videos to arrays, with every failure a MediaError that names the file."""
