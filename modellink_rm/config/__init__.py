"""Groups of command-line flags, one frozen dataclass per concern."""
