"""Numbers about a store or a trained run that explain a result, as arrays and as JSON."""
