"""Looking inside archives: the index, points in time, files, and taking them out."""
