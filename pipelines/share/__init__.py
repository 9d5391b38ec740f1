"""Stores and runs on the Hugging Face Hub: pushed with a card from their records, pulled and verified."""
