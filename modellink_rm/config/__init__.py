"""Groups of command-line flags, one frozen dataclass per concern, and the rules across them."""
