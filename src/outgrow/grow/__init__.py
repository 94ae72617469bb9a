"""What a change would be worth: moments, score, proposals, gain, policies."""
