"""The output of the command line, as tables for people or JSON for programs, and the commands for clusters.

Only `cli.py` imports it.
Nothing here may make decisions about a job: commands parse, call and print.
"""
