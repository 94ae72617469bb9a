"""Policies: outgrow's own, those of the papers that it comes from, its rivals' and plain controls."""
