"""AWQ: weights in 4 bits, after inputs were scaled by their magnitude and the groups' ranges clipped."""
