"""What each command does: it puts the rooms together. Imported only when it runs, so that `--help` answers at once."""
