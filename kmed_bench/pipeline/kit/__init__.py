"""A folder with all that a machine without network needs to install and run the package."""
