"""The files of a checkpoint's folder: weights, cards, and what lies beside them."""
