"""Models outside of training: predictions on image files, and exports for servers.

Import the submodules by name.
"""
