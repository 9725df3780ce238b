"""Templates: conversations to token ids."""
