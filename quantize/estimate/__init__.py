"""How large files are and how much memory they need, from shapes alone."""
