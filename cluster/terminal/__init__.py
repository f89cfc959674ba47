"""What the command line prints, as tables for people or JSON for programs, and the commands about clusters.

Only `cli.py` imports it.
Nothing here may decide anything about a job: commands parse, call and print.
"""
