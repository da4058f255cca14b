"""Releases: the levels, the model card, the plot, the manifest, and making a release again."""
