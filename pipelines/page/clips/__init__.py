"""What a page shows of single samples, from prediction tables: one module for each kind of prediction."""
