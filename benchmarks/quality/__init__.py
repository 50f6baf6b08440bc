"""Time to quality: what a recipe draws after so many minutes of training."""
