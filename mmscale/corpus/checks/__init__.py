"""Faults of translated rows, each by name: what is wrong with a row, how much, and from where on it counts."""
