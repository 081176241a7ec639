"""The cluster floor: the only one that imports Ray."""
