"""The paper's networks: what they are built of, what they cost, and whether a device computes them rightly."""
