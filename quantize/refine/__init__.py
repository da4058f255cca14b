"""Error feedback in stock GGUF blocks: codes chosen with the second moments of a layer's inputs."""

from .grids import GRIDS
from .octets import OCTETS

REFINED = frozenset(GRIDS) | frozenset(OCTETS)  # names of the types that it is for
