"""The avatar world: procedural cartoon heads with known attributes."""
