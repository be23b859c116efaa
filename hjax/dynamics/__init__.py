"""Characteristics and co-states: Hamilton's equations, discrete adjoints, Pontryagin training, flows and scores."""
