"""Do the paper's tables come out again? Imports the store, the workers and trust, and nothing that shows."""
