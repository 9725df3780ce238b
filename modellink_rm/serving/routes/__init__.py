"""The routes, one file per client whose requests they answer."""
