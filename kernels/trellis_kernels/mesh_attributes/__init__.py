"""Mesh colours and materials -> attributes of the voxels its surface passes."""
