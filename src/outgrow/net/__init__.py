"""What a network is and how it can change: axes, edits, carried state, cost."""
