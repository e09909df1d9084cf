"""What the lessons share, so that a lesson's own cells can be about its subject."""
