"""Triangle rasteriser: visible face, barycentric coordinates and depth of every pixel."""
