"""Triangle mesh -> flexible dual grid: active voxels, edge crossings, one dual vertex a voxel."""
