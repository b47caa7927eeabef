"""Files that are whole or not there, and JSON read strictly: the ground that every room stands on."""
