"""Voxels as the bytes of an octree, and filters that make their attributes compress better."""
