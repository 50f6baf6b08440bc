"""Beside a busy neighbour: who works, and how long it takes."""
