"""Sparse-voxel and mesh kernels: every op is a folder with one door (op.py) and a readable reference."""
