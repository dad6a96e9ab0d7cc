"""The numeric runtime under the operators: tiles, compiled loops, sums, ranks, random numbers."""
