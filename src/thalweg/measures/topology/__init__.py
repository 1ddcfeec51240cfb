"""The shape of slices: components, loops and voids below a level, and what of it can be trusted."""

from thalweg.measures.topology.merge_tree import MergeTree
from thalweg.measures.topology.persistence import Persistence, persistence

__all__ = ["MergeTree", "Persistence", "persistence"]
