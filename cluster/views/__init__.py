"""What people look at: the report of a run that is complete, and the pages of work that is under way."""
