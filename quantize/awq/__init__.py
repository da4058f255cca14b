"""AWQ: inputs scaled by how much they matter, ranges clipped, weights in 4 bits."""
