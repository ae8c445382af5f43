"""Ready-made guest systems, built on the user's machine from the distribution's own packages."""
