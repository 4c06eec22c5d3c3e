"""Tables of papers as sweeps: their rows, their published numbers, their claims."""
