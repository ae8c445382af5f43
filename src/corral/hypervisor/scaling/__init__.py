"""Scaling by itself: the wish, the decision, and the loop that carries it out."""
