"""Error feedback in stock GGUF blocks: codes chosen with the second moments of a layer's inputs."""

from .lattice_types import LATTICE_TYPES
from .scalar_types import SCALAR_TYPES

REFINED = frozenset(SCALAR_TYPES) | frozenset(LATTICE_TYPES)  # the names of the types that can be refined
