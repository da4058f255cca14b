"""Files <-> the intermediate representation. This package knows file formats, but no policy, and imports no torch."""
