"""Trust reports that come with the tool, one JSON file each."""
