"""What `reconstruct` is made of: operators by name, measurements, methods, and what is written of them."""
