"""One module for each device family: a device of the document becomes its parts."""
