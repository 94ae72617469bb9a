"""What a run looks like: the terminal, the plots, the report."""
