"""The arrays of figures, from runs and stores."""
