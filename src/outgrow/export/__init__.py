"""Files that hold one saved size and need no outgrow to be used: one format a module, each read back and compared."""
