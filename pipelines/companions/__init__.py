"""What is computed once from a store's tokens and kept beside them, in its folder ``companions``."""
