"""Each tensor's type chosen so that the file has a given size and loses least."""
