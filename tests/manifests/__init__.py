"""What would be installed, as objects: every overlay, rendered by the real kubectl."""
