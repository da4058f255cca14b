"""What ``release`` and ``reproduce`` are made of: the levels and their words, the card, the plot, the manifest."""
