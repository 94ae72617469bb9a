"""Seed networks in plain torch, to be grown."""
