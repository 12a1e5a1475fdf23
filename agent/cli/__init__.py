"""The commands of `candor`, one module each; assembled by `main`."""
