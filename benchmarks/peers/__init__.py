"""Who is measured: this package, the course module, and the networks of other packages."""
