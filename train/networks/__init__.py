"""The paper's networks: their building blocks, their cost, and checks that a device computes them correctly."""
