"""Growing while training: the Grower, the built-in trainer, journal and family."""
