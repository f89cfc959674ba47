"""What the command line prints, as views for people or JSON for programs, and the commands about clusters.

`cli.py` imports it.
Nothing here decides anything about a job.
"""
